// A picture of an episode's step, which the server may have to make first.

import { root } from "./format.js";

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const MOST_ASKED = 60;

// Resolves to an address for an <img>; rejects with a sentence. `wanted` says whether anybody still waits.
export async function pictureAt(lab, episode, step, wanted = () => true) {
  const address = `${root}api/labs/${lab}/episodes/${episode}/frames/${step}.jpg`;
  for (let asked = 0; asked < MOST_ASKED && wanted(); asked++) {
    const answer = await fetch(address);
    if (answer.status === 200) return URL.createObjectURL(await answer.blob());
    if (answer.status !== 202) {
      const body = await answer.json().catch(() => ({}));
      throw new Error(body.detail || `The server answered ${answer.status} for this picture.`);
    }
    await pause(asked < 5 ? 300 : 1000);
  }
  throw new Error("The picture was not made within a minute. Is the worker running?");
}
