/** Something the person at the keyboard can put right. The message says how; a stack trace would only hide it. */
export class BootstrapError extends Error {}
