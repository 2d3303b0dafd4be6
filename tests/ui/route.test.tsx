import { expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { formatRoute, parseRoute } from '../../ChatUI/src/navigation/route.ts';

test('every chat has an address that leads back to it, whatever its names hold', () => {
  const name = fc.string({ minLength: 1, unit: 'grapheme' });
  fc.assert(
    fc.property(name, name, (workflowName, chatId) => {
      const route = { page: 'chat', workflowName, chatId } as const;
      expect(parseRoute(formatRoute(route))).toEqual(route);
    }),
  );
});

test('an address without a chat leads to a new one, any other to the workflows', () => {
  expect(parseRoute('#/chat/support_desk')).toEqual({ page: 'new_chat', workflowName: 'support_desk' });
  expect(parseRoute('#/chat/%E0%A4%A/x')).toMatchObject({ page: 'chat' });
  expect(parseRoute('')).toEqual({ page: 'workflows' });
  expect(parseRoute('#/somewhere')).toEqual({ page: 'workflows' });
});
