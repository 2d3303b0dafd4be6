import type { ServerFrameData } from '../../../core/contracts/frames.ts';

export type ErrorAdvice = { title: string; advice: string; isSevere: boolean };

/** What an error means to the user, and what to do. An unknown kind is told by whether trying again can help. */
export function adviceFor({ error_type, retryable }: ServerFrameData<'chat.error'>): ErrorAdvice {
  switch (error_type) {
    case 'missing_usage_summary':
      return {
        title: 'Usage was not reported',
        advice:
          'What is above stands. What it cost is not known, so it is not in the totals, and nothing was charged for it.',
        isSevere: false,
      };
    case 'usage_mismatch':
      return {
        title: 'The provider counted differently',
        advice: 'The totals above are what was charged. You need not do anything.',
        isSevere: false,
      };
    case 'unpriced_model':
      return {
        title: 'This model has no price yet',
        advice: 'Its tokens were counted; its cost is not in the totals above.',
        isSevere: false,
      };
    default:
      return {
        title: 'Something went wrong',
        advice: retryable
          ? 'Send your message again.'
          : 'Sending it again will not help. Start a new chat, or tell whoever runs this workflow.',
        isSevere: true,
      };
  }
}
