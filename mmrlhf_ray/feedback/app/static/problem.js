/** Why there is no answer yet, and where it is to be given. */
export class Problem extends Error {
  constructor(text, place) {
    super(text);
    this.place = place;
  }
}
