// Loaded before a program that is measured (`node --import`): says over the channel what CPU time the process has used,
// all its threads together, the garbage collector's and the compiler's too. Children (mongod) are not in it.
process.on('message', (message) => {
  if (message === 'cpu') process.send?.(process.cpuUsage());
});
// The program decides when it ends.
process.channel?.unref();
