import { describe, expect, test } from '@jest/globals';
import { nextSpeaker } from '../../core/orchestration/orchestration-patterns.ts';
import { type Workflow, workflowFileSchema } from '../../core/orchestration/workflow-definition.ts';

const workflow = (facts: object): Workflow => ({
  workflow_name: 'test',
  ...workflowFileSchema.parse({
    ui: { display_name: 'Test' },
    agents: ['dreamer', 'critic', 'editor'].map((name) => ({ name, system_message: 'Speak.' })),
    ...facts,
  }),
});

/** Everyone who speaks to one message, in order. */
function speakers(of: Workflow): string[] {
  const spoken: string[] = [];
  for (let next = nextSpeaker(of, spoken); next !== null; next = nextSpeaker(of, spoken))
    spoken.push(next.name);
  return spoken;
}

describe('round robin', () => {
  test('lets each agent speak once, as the file names them', () => {
    expect(speakers(workflow({ pattern: 'round_robin' }))).toEqual(['dreamer', 'critic', 'editor']);
  });

  test('begins with the initial agent; the others keep their order', () => {
    expect(speakers(workflow({ pattern: 'round_robin', initial_agent: 'editor' }))).toEqual([
      'editor',
      'dreamer',
      'critic',
    ]);
  });

  test('ends after max_turns', () => {
    expect(speakers(workflow({ pattern: 'round_robin', max_turns: 2 }))).toEqual(['dreamer', 'critic']);
  });
});

describe('the default pattern', () => {
  test('lets the initial agent speak, or the first one', () => {
    expect(speakers(workflow({}))).toEqual(['dreamer']);
    expect(speakers(workflow({ initial_agent: 'critic' }))).toEqual(['critic']);
  });
});

test('who speaks follows from who spoke: a run that is taken up again goes on where it stood', () => {
  const of = workflow({ pattern: 'round_robin' });
  expect(nextSpeaker(of, ['dreamer'])?.name).toBe('critic');
  expect(nextSpeaker(of, ['dreamer', 'critic', 'editor'])).toBeNull();
});

test('a workflow is not changed by asking', () => {
  const of = workflow({ pattern: 'round_robin', initial_agent: 'editor' });
  const before = structuredClone(of);
  speakers(of);
  expect(of).toEqual(before);
});
