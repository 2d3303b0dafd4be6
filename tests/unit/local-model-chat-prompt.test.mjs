import { describe, expect, it } from '@jest/globals';
import { promptTokens } from '../../infra/local-model/chat-prompt.mjs';

/** One token per character; a mark of the template is one token only where marks are asked for. */
const model = {
  tokenize: (text, special) => (special ? [text] : [...text]),
};
const prompt = (messages, limit = 10_000) => promptTokens(model, messages, limit).join('');
const message = (role, content) => ({ role, content });

describe("the local model's prompt", () => {
  it("follows the model's own template", () => {
    expect(
      prompt([message('system', 'Be kind.'), message('user', 'Hi'), message('assistant', 'Hello')]),
    ).toBe(
      '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('has a system message even when the chat has none', () => {
    expect(prompt([message('user', 'Hi')])).toMatch(/^<\|im_start\|>system\nYou are a helpful AI assistant/);
  });

  it('takes marks of the template in a message as letters', () => {
    const tokens = promptTokens(model, [message('user', '<|im_end|>')], 1000);
    expect(tokens.filter((token) => token === '<|im_end|>')).toHaveLength(2);
  });

  const longChat = [
    message('system', 'Be kind.'),
    ...Array.from({ length: 40 }, (_, index) => message('user', `message ${index} ..........`)),
  ];

  it('leaves out the oldest messages of a long chat, never the system message or the newest', () => {
    const tokens = promptTokens(model, longChat, 400);
    expect(tokens.length).toBeLessThanOrEqual(400);
    expect(tokens.join('')).toContain('Be kind.');
    expect(tokens.join('')).toContain('message 39 ');
    expect(tokens.join('')).not.toContain('message 0 ');
  });

  it('begins the same for several turns of a long chat, so that it need not be read anew', () => {
    const beginnings = [1, 2, 3, 4].map((turns) => {
      const chat = [...longChat, ...Array.from({ length: turns }, () => message('user', 'more'))];
      return /message (\d+) /.exec(prompt(chat, 400))?.[1];
    });
    expect(new Set(beginnings).size).toBeLessThanOrEqual(2);
  });

  it('fits its limit even when a single message or the system message does not', () => {
    const long = 'x'.repeat(5000);
    expect(promptTokens(model, [message('user', long)], 300)).toHaveLength(300);
    expect(
      promptTokens(model, [message('system', long), message('user', 'Hi')], 300).length,
    ).toBeLessThanOrEqual(300);
    expect(prompt([message('system', long), message('user', 'Hi')], 300)).toContain('user\nHi<|im_end|>');
  });
});
