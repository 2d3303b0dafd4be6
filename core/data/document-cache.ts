/** The documents a node committed last, by id; the least recently used leave. */
export class DocumentCache<Value> {
  readonly #limit: number;
  readonly #documents = new Map<string, Value>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  get(id: string): Value | undefined {
    const found = this.#documents.get(id);
    if (found !== undefined) {
      this.#documents.delete(id);
      this.#documents.set(id, found);
    }
    return found;
  }

  set(id: string, value: Value): void {
    this.#documents.delete(id);
    this.#documents.set(id, value);
    if (this.#documents.size <= this.#limit) return;
    const oldest = this.#documents.keys().next();
    if (oldest.done !== true) this.#documents.delete(oldest.value);
  }

  values(): Value[] {
    return [...this.#documents.values()];
  }

  delete(id: string): void {
    this.#documents.delete(id);
  }

  clear(): void {
    this.#documents.clear();
  }
}
