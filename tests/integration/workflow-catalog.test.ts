import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { readWorkflows, summarize, WorkflowError } from '../../core/orchestration/workflow-catalog.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';

let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
beforeEach(async () => {
  folder = await createTemporaryFolder();
});
afterEach(() => folder.remove());

async function write(name: string, yaml: string): Promise<void> {
  await mkdir(join(folder.path, name), { recursive: true });
  await writeFile(join(folder.path, name, 'workflow.yaml'), yaml);
}

/** What is wrong, without the folder in front. */
async function problems(): Promise<string[]> {
  try {
    await readWorkflows(folder.path);
  } catch (cause) {
    if (cause instanceof WorkflowError)
      return cause.problems.map((each) => each.replace(`${folder.path}/`, ''));
    throw cause;
  }
  return [];
}

const valid = `
ui:
  display_name: Helper
agents:
  - name: helper
    system_message: Help.
`;

test('a folder is a workflow: nothing else names it', async () => {
  await write('helper', valid);
  await write('another', valid);
  await writeFile(join(folder.path, 'README.md'), 'Not a workflow.');
  const catalog = await readWorkflows(folder.path);
  expect([...catalog.keys()]).toEqual(['another', 'helper']);
  expect(catalog.get('helper')).toMatchObject({ workflow_name: 'helper', pattern: 'default', max_turns: 20 });
});

describe('a file that cannot be used is named, with line and field', () => {
  test.each([
    ['an unknown field', `${valid}colour: red\n`, /^w\/workflow\.yaml:1: workflow: .*colour/],
    [
      'a pattern that does not exist',
      `pattern: anarchy\n${valid}`,
      /^w\/workflow\.yaml:1: pattern: .*round_robin/,
    ],
    [
      'an agent without instructions',
      valid.replace('    system_message: Help.\n', ''),
      /^w\/workflow\.yaml:5: agents\.0\.system_message: /,
    ],
    [
      'a temperature that is too high',
      `${valid}    temperature: 3\n`,
      /^w\/workflow\.yaml:7: agents\.0\.temperature: /,
    ],
    [
      'an agent named like plumbing',
      valid.replace('name: helper', 'name: _Group_Tool_Executor'),
      /^w\/workflow\.yaml:5: agents\.0\.name: must be letters/,
    ],
    [
      'two agents of one name',
      `${valid}  - name: helper\n    system_message: Help too.\n`,
      /^w\/workflow\.yaml:7: agents\.1\.name: there are two agents named helper/,
    ],
    [
      'an initial agent who is nobody',
      `initial_agent: nobody\n${valid}`,
      /^w\/workflow\.yaml:1: initial_agent: there is no agent named nobody; the agents are helper/,
    ],
    ['no agents', 'ui: { display_name: Empty }\nagents: []\n', /^w\/workflow\.yaml:2: agents: /],
    ['an empty file', '', /^w\/workflow\.yaml:1: workflow: /],
    ['broken YAML', 'ui:\n  display_name: "Open\nagents: [', /^w\/workflow\.yaml:\d+: /],
    [
      'a key that is there twice',
      'ui: { display_name: A }\nui: { display_name: B }\n',
      /^w\/workflow\.yaml:2: .*unique/,
    ],
  ])('%s', async (_, yaml, message) => {
    await write('w', yaml);
    expect((await problems())[0]).toMatch(message);
  });

  test('a folder without a file', async () => {
    await mkdir(join(folder.path, 'empty'));
    expect(await problems()).toEqual([expect.stringMatching(/^empty\/workflow\.yaml: cannot be read/)]);
  });

  test('a folder whose name is no identifier', async () => {
    await write('my workflow', valid);
    expect(await problems()).toEqual([
      expect.stringMatching(/^my workflow\/workflow\.yaml: the folder's name must be/),
    ]);
  });

  test('all problems of all files are said at once', async () => {
    await write('one', 'pattern: anarchy\n');
    await write('two', 'agents: 7\n');
    await write('three', valid);
    const found = await problems();
    expect(new Set(found.map((each) => each.split('/')[0]))).toEqual(new Set(['one', 'two']));
    expect(found.length).toBeGreaterThanOrEqual(4);
  });
});

test('the workflows of this project can be used, and have something to show', async () => {
  const catalog = await readWorkflows(join(projectRoot(), 'workflows'));
  for (const workflow of catalog.values()) {
    const shown = summarize(workflow, 'some-model');
    expect(shown.description).not.toBe('');
    expect(shown.suggestions.length).toBeGreaterThan(0);
    expect(shown.agents.every(({ description }) => description !== '')).toBe(true);
  }
  expect([...catalog.keys()]).toEqual(expect.arrayContaining(['assistant', 'brainstorm']));
});
