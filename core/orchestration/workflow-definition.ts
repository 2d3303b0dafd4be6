import { z } from 'zod';
import { idSchema } from '../contracts/ids.ts';

/** An agent's name as workflows may give it; underscores in front are AG2's own. */
const agentName = z
  .string()
  .regex(/^[A-Za-z][A-Za-z0-9_-]{0,63}$/, 'must be letters, digits, _ and -, beginning with a letter');

export const agentDefinitionSchema = z.strictObject({
  name: agentName,
  description: z.string().max(2000).default(''),
  system_message: z.string().min(1).max(100_000),
  model: z.string().min(1).max(256).optional(),
  temperature: z.number().min(0).max(2).optional(),
  max_tokens: z.int().min(1).max(1_000_000).optional(),
});
export type AgentDefinition = z.infer<typeof agentDefinitionSchema>;

/** The contents of a `workflow.yaml`. */
export const workflowFileSchema = z
  .strictObject({
    ui: z.strictObject({
      display_name: z.string().min(1).max(100),
      description: z.string().max(500).default(''),
      icon: z.string().max(16).default('🧩'),
      suggestions: z.array(z.string().min(1).max(300)).max(8).default([]),
    }),
    /** Who speaks next: `default` lets the initial agent speak once; `round_robin` lets all speak, in order. */
    pattern: z.enum(['default', 'round_robin']).default('default'),
    initial_agent: agentName.optional(),
    /** The most replies of agents to one message of the user. */
    max_turns: z.int().min(1).max(1000).default(20),
    agents: z.array(agentDefinitionSchema).min(1).max(64),
  })
  .superRefine((workflow, context) => {
    const names = workflow.agents.map(({ name }) => name);
    for (const [index, name] of names.entries())
      if (names.indexOf(name) !== index)
        context.addIssue({
          code: 'custom',
          path: ['agents', index, 'name'],
          message: `there are two agents named ${name}`,
        });
    if (workflow.initial_agent !== undefined && !names.includes(workflow.initial_agent))
      context.addIssue({
        code: 'custom',
        path: ['initial_agent'],
        message: `there is no agent named ${workflow.initial_agent}; the agents are ${names.join(', ')}`,
      });
  });

export const workflowNameSchema = idSchema;
export type Workflow = z.infer<typeof workflowFileSchema> & { workflow_name: string };
