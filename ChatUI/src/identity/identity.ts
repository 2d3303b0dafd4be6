import { z } from 'zod';
import { idSchema } from '../../../core/contracts/ids.ts';

export const identitySchema = z.strictObject({ app_id: idSchema, user_id: idSchema });
export type Identity = z.infer<typeof identitySchema>;

const storageKey = 'mozaiks.identity';
const defaultAppId = 'demo';

/**
 * Who the user is while there is no sign-in: what the page's address says (`?app_id=&user_id=`), else what this
 * browser remembers, else a new name of its own. Only the last two are remembered.
 */
export function loadIdentity(storage: Storage, search: string, randomUuid: () => string): Identity {
  const remembered = readIdentity(storage) ?? {
    app_id: defaultAppId,
    user_id: `user-${randomUuid().slice(0, 8)}`,
  };
  saveIdentity(storage, remembered);
  const parameters = new URLSearchParams(search);
  const { data } = identitySchema.safeParse({
    app_id: parameters.get('app_id') ?? remembered.app_id,
    user_id: parameters.get('user_id') ?? remembered.user_id,
  });
  return data ?? remembered;
}

export function saveIdentity(storage: Storage, identity: Identity): void {
  try {
    storage.setItem(storageKey, JSON.stringify(identity));
  } catch {
    // A browser that keeps nothing (private mode, full storage) still shows the chat; it forgets on reload.
  }
}

function readIdentity(storage: Storage): Identity | undefined {
  try {
    return identitySchema.safeParse(JSON.parse(storage.getItem(storageKey) ?? 'null')).data;
  } catch {
    return undefined;
  }
}
