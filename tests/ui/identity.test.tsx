import { beforeEach, expect, test } from '@jest/globals';
import { loadIdentity, saveIdentity } from '../../ChatUI/src/identity/identity.ts';

beforeEach(() => localStorage.clear());

const newName = (): string => '0123456789abcdef';

test('a browser gets a user of its own once, and keeps it', () => {
  const first = loadIdentity(localStorage, '', newName);
  expect(first).toEqual({ app_id: 'demo', user_id: 'user-01234567' });
  expect(loadIdentity(localStorage, '', () => 'ffffffffffff')).toEqual(first);
});

test('the address of the page overrules what the browser remembers, without changing it', () => {
  saveIdentity(localStorage, { app_id: 'acme', user_id: 'ann' });
  expect(loadIdentity(localStorage, '?user_id=bob', newName)).toEqual({ app_id: 'acme', user_id: 'bob' });
  expect(loadIdentity(localStorage, '', newName)).toEqual({ app_id: 'acme', user_id: 'ann' });
});

test('an identifier that no server would accept is passed over', () => {
  localStorage.setItem('mozaiks.identity', '{"app_id":"../..","user_id":7}');
  expect(loadIdentity(localStorage, '?user_id=%24ne', newName)).toEqual({
    app_id: 'demo',
    user_id: 'user-01234567',
  });
});
