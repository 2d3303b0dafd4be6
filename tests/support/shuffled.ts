/** The items in another order, the same for the same seed. */
export function shuffled<Item>(items: readonly Item[], seed: number): Item[] {
  let state = seed;
  const keyed = items.map((item) => {
    // Numerical Recipes' linear congruential generator: not good, but the same everywhere.
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296;
    return { item, key: state };
  });
  return keyed.toSorted((a, b) => a.key - b.key).map(({ item }) => item);
}
