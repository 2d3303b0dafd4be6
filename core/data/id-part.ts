/**
 * A text from outside (a uuid, a model's name) as one part of an id: the signs that join parts are written otherwise,
 * so that no two different ids can become the same.
 */
export function idPart(text: string): string {
  return text.replaceAll(/[%|#]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
}
