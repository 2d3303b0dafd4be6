import { afterAll, describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MongoClient } from 'mongodb';
import { z } from 'zod';
import { environmentSchema } from '../../core/config/core-config.ts';
import { knownAgentEventSchema } from '../../core/contracts/agent-events.ts';
import { ledgerEntrySchema } from '../../core/contracts/documents.ts';
import {
  clientFrameSchema,
  closeCodes,
  parseServerFrame,
  serverFrames,
} from '../../core/contracts/frames.ts';
import { openCollections } from '../../core/data/collections.ts';
import { newSession } from '../../core/data/new-session.ts';
import { canonicalJson } from '../../core/data/wallet-ledger.ts';
import { readEvent } from '../../core/events/ag2-dialect.ts';

/** The documents promise to be true; here they are held to it, as far as lists, names, examples and links go. */
const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const read = (file: string): string => readFileSync(join(root, file), 'utf8');
const documents = [
  ...readdirSync(root),
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map((file) => join('docs', file)),
].filter((file) => file.endsWith('.md'));

type Section = { title: string; text: string };

/** The parts of a text under headings of one level, each up to the next heading of that level or above. */
function sectionsOf(text: string, level: number): Section[] {
  const heading = new RegExp(`^#{1,${level}} `);
  const sections: (Section & { level: number })[] = [];
  for (const line of text.split('\n')) {
    const current = sections.at(-1);
    if (heading.test(line)) {
      const marks = line.indexOf(' ');
      sections.push({ title: line.slice(marks + 1).trim(), text: '', level: marks });
    } else if (current !== undefined) current.text += `${line}\n`;
  }
  return sections.filter((section) => section.level === level);
}

function sectionOf(text: string, title: string, level = 2): string {
  const found = sectionsOf(text, level).find((section) => section.title === title);
  if (found === undefined) throw new Error(`there is no heading "${title}"`);
  return found.text;
}

const fencesOf = (text: string, language: string): string[] =>
  [...text.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].flatMap(([, name, body = '']) =>
    name === language ? [body] : [],
  );
const examplesOf = (text: string): unknown[] =>
  fencesOf(text, 'json').map((body): unknown => JSON.parse(body));

/** What stands in code quotes in the first column of a text's tables. */
const firstColumn = (text: string): string[] =>
  [...text.matchAll(/^\| (.+?) \|/gm)].flatMap(([, cell = '']) => codeIn(cell));
const codeIn = (text: string): string[] => [...text.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code);

describe('docs/PROTOCOL.md', () => {
  const protocol = read('docs/PROTOCOL.md');
  const server = sectionsOf(sectionOf(protocol, 'Server frames'), 3);
  const client = sectionsOf(sectionOf(protocol, 'Client frames'), 3);
  const clientFrames = clientFrameSchema.options.map((option) => ({
    type: option.shape.type.value,
    fields: Object.keys(option.shape).filter((name) => name !== 'type'),
  }));

  test('has a heading for each frame of the server, and no other', () => {
    expect(server.map(({ title }) => title).toSorted()).toEqual(Object.keys(serverFrames).toSorted());
  });

  test.each(Object.entries(serverFrames))('names the fields of %s and shows it', (type, schema) => {
    const { text } = server.find(({ title }) => title === type) ?? { text: '' };
    const [table = ''] = text.split(/\n(?=\| `error_type` \| Meaning)/);
    expect(firstColumn(table).toSorted()).toEqual(Object.keys(schema.shape.data.shape).toSorted());
    const frames = examplesOf(text).map((example) => parseServerFrame(example)?.type);
    expect(new Set(frames)).toEqual(new Set([type]));
  });

  test('has a heading for each frame of the client, and no other', () => {
    expect(client.map(({ title }) => title).toSorted()).toEqual(
      clientFrames.map(({ type }) => type).toSorted(),
    );
  });

  test.each(clientFrames)('names the fields of $type and shows it', ({ type, fields }) => {
    const { text } = client.find(({ title }) => title === type) ?? { text: '' };
    expect(firstColumn(text).toSorted()).toEqual(fields.toSorted());
    const frames = examplesOf(text).map((example) => clientFrameSchema.parse(example).type);
    expect(new Set(frames)).toEqual(new Set([type]));
  });

  test('lists the close codes', () => {
    const codes = [...sectionOf(protocol, 'Close codes').matchAll(/^\| (\d{4}) \|/gm)].map(
      ([, code = '']) => code,
    );
    expect(codes.toSorted()).toEqual(Object.values(closeCodes).map(String).toSorted());
  });
});

describe('docs/EVENT_ARCHITECTURE.md', () => {
  const events = read('docs/EVENT_ARCHITECTURE.md');

  test('names the event types that this runtime acts on, and no other', () => {
    const [table = ''] = sectionOf(events, 'Event types').split('\n### ');
    expect(
      firstColumn(table)
        .filter((code) => code !== 'event.type')
        .toSorted(),
    ).toEqual(knownAgentEventSchema.options.map((option) => option.shape.type.value).toSorted());
  });

  test('names the refusal codes', () => {
    const [, union = ''] = /RefusalCode =([^;]+);/.exec(read('core/events/ag2-dialect.ts')) ?? [];
    const codes = [...union.matchAll(/'(\w+)'/g)].map(([, code = '']) => code);
    expect(codes).not.toEqual([]);
    expect(firstColumn(sectionOf(events, 'Refusals')).toSorted()).toEqual(codes.toSorted());
  });

  const examples = examplesOf(events);
  test.each(examples)('shows envelopes that are taken at the door (%#)', (example) => {
    const { ts } = z.object({ ts: z.string() }).parse(example);
    expect(readEvent(example, new Date(ts))).toMatchObject({ event: { known: expect.anything() } });
  });

  test('shows an envelope with a meter', () => {
    expect(examples).toContainEqual(expect.objectContaining({ meter: expect.anything() }));
  });
});

describe('.env.example', () => {
  const variables = [...read('.env.example').matchAll(/^# ([A-Z][A-Z0-9_]*)=(.*)$/gm)].map(
    ([, name = '', value = '']) => ({ name, value }),
  );

  test('lists exactly the variables that are read', () => {
    expect(variables.map(({ name }) => name).toSorted()).toEqual(
      Object.keys(environmentSchema.shape).toSorted(),
    );
  });

  test('shows the default of each, and nothing where there is none', () => {
    const defaults = new Map(
      Object.entries(environmentSchema.parse({})).map(([name, value]) => [name, String(value)]),
    );
    for (const { name, value } of variables)
      expect({ name, value }).toEqual({ name, value: defaults.get(name) ?? '' });
  });

  test('has a line about each variable right above it', () => {
    const lines = read('.env.example').split('\n');
    for (const { name } of variables) {
      const above = lines[lines.findIndex((line) => line.startsWith(`# ${name}=`)) - 1];
      expect({ name, above }).toEqual({ name, above: expect.stringMatching(/^# \S.*\.$/) });
    }
  });
});

describe('PERSISTENCE.md', () => {
  const persistence = read('PERSISTENCE.md');
  const source = read('core/data/collections.ts');
  const sections = sectionsOf(sectionOf(persistence, 'Collections'), 3);
  // Never connected: only the collections' names are asked for.
  const client = new MongoClient('mongodb://127.0.0.1');
  afterAll(() => client.close());
  const collections = Object.entries(openCollections(client.db('docs'))).map(
    ([property, { collectionName }]) => ({
      collectionName,
      documentType: new RegExp(`^ {2}${property}: Collection<(\\w+)>;$`, 'm').exec(source)?.[1] ?? '',
    }),
  );

  /** The fields on the first level of a type that is written as an object; none for a type from elsewhere. */
  function fieldsOf(documentType: string): string[] {
    const head = `^export type ${documentType} = \\{`;
    const [, oneLine] = new RegExp(`${head} (.*) \\};$`, 'm').exec(source) ?? [];
    const [, lines = ''] = new RegExp(`${head}\n(.*?)^\\};$`, 'ms').exec(source) ?? [];
    const members = oneLine?.split('; ') ?? lines.split('\n');
    return members.flatMap((member) => {
      const [, name] = (oneLine === undefined ? /^ {2}(\w+)\??:/ : /^(\w+)\??:/).exec(member) ?? [];
      return name === undefined ? [] : [name];
    });
  }

  test('has a section for each collection, and no other', () => {
    expect(sections.map(({ title }) => title).toSorted()).toEqual(
      collections.map(({ collectionName }) => collectionName).toSorted(),
    );
  });

  test.each(collections)('names the fields of $collectionName', ({ collectionName, documentType }) => {
    const { text } = sections.find(({ title }) => title === collectionName) ?? { text: '' };
    const [table = ''] = text.split(/\n`\w+`:\n/);
    const fields = fieldsOf(documentType);
    // These two are contracts of their own, described where they are.
    if (fields.length === 0) expect(['BudgetDocument', 'Price']).toContain(documentType);
    else expect(firstColumn(table).toSorted()).toEqual(fields.toSorted());
  });

  test('names everything in a new session', () => {
    const text = sections.find(({ title }) => title === 'ChatSessions')?.text ?? '';
    const named = new Set(codeIn(text).flatMap((code) => code.split('.')));
    const names = namesIn(
      newSession({ chat_id: 'c', app_id: 'a', user_id: 'u', workflow_name: 'w' }, new Date(0), true),
    );
    expect(names.filter((name) => !named.has(name))).toEqual([]);
  });

  test('says how a line of the ledger is hashed, with a line whose hash is right', () => {
    const section = sectionOf(persistence, 'The chain of a ledger');
    const [line] = examplesOf(section);
    const { hash } = ledgerEntrySchema.parse(line);
    const [canonical = ''] = fencesOf(section, 'text').map((text) => text.trimEnd());
    expect(createHash('sha256').update(canonical).digest('hex')).toBe(hash);
    expect(canonicalJson(asStored(line))).toBe(canonical);
  });
});

function namesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null || value instanceof Date || Array.isArray(value)) return [];
  return Object.entries(value).flatMap(([name, member]) => [name, ...namesIn(member)]);
}

/** As MongoDB holds it: what is no plain number is int64. */
function asStored(value: unknown, name = ''): unknown {
  if (typeof value === 'number')
    return name === 'sequence' || name === 'reported_cost' ? value : BigInt(value);
  if (Array.isArray(value)) return value.map((each) => asStored(each));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, asStored(member, key)]));
}

describe.each(documents)('%s', (document) => {
  const text = read(document);
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^\w+:/.test(target));

  test('links to what is there', () => {
    const broken = links.filter((target) => {
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? join(root, document) : join(root, dirname(document), path);
      if (!existsSync(file)) return true;
      return (
        anchor !== undefined && file.endsWith('.md') && !anchorsOf(readFileSync(file, 'utf8')).has(anchor)
      );
    });
    expect(broken).toEqual([]);
  });

  test('mentions no path of anybody’s machine', () => {
    expect(text.match(/(\/home\/|\/Users\/|\/root\/|\/work\/|\/tmp\/|\b[A-Z]:\\)\S*/g)).toBeNull();
  });
});

function anchorsOf(text: string): Set<string> {
  const headings = [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => heading);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}
