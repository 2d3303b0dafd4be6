import { closeCodes } from '../../../core/contracts/frames.ts';

export type CloseVerdict =
  | { kind: 'reconnect'; atLeastMs: number }
  /** `blamesMessage`: what we sent was the reason, and sending it again would have the same end. */
  | { kind: 'stay_closed'; explanation: string; blamesMessage: boolean };

const soonMs = 500;
const afterTooFastMs = 5_000;

/** What a close code asks of the client. Coming back by itself is right only when the same socket could work later. */
export function closeVerdict(code: number): CloseVerdict {
  switch (code) {
    case closeCodes.not_signed_in:
    case closeCodes.sign_in_timeout:
      return {
        kind: 'stay_closed',
        explanation: 'You are not signed in. Sign in, then try again.',
        blamesMessage: false,
      };
    case closeCodes.not_yours:
      return {
        kind: 'stay_closed',
        explanation: 'This chat belongs to someone else. Check the app and user in the settings.',
        blamesMessage: false,
      };
    case closeCodes.no_such_chat:
      return {
        kind: 'stay_closed',
        explanation: 'This chat does not exist (any more). Start a new one.',
        blamesMessage: false,
      };
    case closeCodes.superseded:
      return {
        kind: 'stay_closed',
        explanation: 'This chat was opened in another place. Continue here?',
        blamesMessage: false,
      };
    case closeCodes.bad_frame:
      return {
        kind: 'stay_closed',
        explanation: 'The server did not understand this page. Reload it to get its current version.',
        blamesMessage: true,
      };
    case closeCodes.too_large:
      return {
        kind: 'stay_closed',
        explanation: 'The last message was too large. Send a shorter one.',
        blamesMessage: true,
      };
    case closeCodes.too_fast:
      return { kind: 'reconnect', atLeastMs: afterTooFastMs };
    case closeCodes.restarting:
      return { kind: 'reconnect', atLeastMs: soonMs };
    default:
      return { kind: 'reconnect', atLeastMs: soonMs };
  }
}
