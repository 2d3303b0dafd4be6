// Downloads the official mongod for this system into the folder named by the first argument. Plain JavaScript, because
// it runs as a process of its own from the source folder: find-mongod.ts ends it when it hangs.
const [, , downloadDir] = process.argv;

// The package reads its options when it is loaded. One attempt only: without internet the answer should come at once.
process.env.MONGOMS_DOWNLOAD_DIR = downloadDir;
process.env.MONGOMS_MAX_RETRIES = '1';
const { MongoBinary } = await import('mongodb-memory-server-core');
try {
  await MongoBinary.getPath({ downloadDir });
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
