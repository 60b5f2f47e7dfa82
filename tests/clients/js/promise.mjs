// What the checks are written with: one TAP line per promise, a deadline on every wait, and a queue that is awaited
// instead of slept for.
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** For one wait, and for all the waits of one promise. */
const DEADLINE_MS = 20_000;
const PROMISE_DEADLINE_MS = 90_000;

let failures = 0;
let count = 0;
let wanted;

/** From now on only the promises of one case of docs/protocol.md §15 are run: those whose sentence begins with it. */
export function onlyCase(number) {
  wanted = Number(number);
}

/** Whether a sentence such as `284: …` or `285–287: …` begins with the case that is wanted. */
function isWanted(sentence) {
  if (wanted === undefined) return true;
  const [, first, last = first] = /^(\d+)(?:–(\d+))?: /.exec(sentence) ?? [];
  return Number(first) <= wanted && wanted <= Number(last);
}

/** Runs one promise and prints its TAP line. A failure is reported and the run goes on. */
export async function promise(sentence, body) {
  if (!isWanted(sentence)) return;
  count += 1;
  try {
    await withDeadline(body(), sentence, PROMISE_DEADLINE_MS);
    console.log(`ok ${count} - ${sentence}`);
  } catch (error) {
    failures += 1;
    console.log(`not ok ${count} - ${sentence}`);
    console.log(String(error?.stack ?? error).replace(/^/gm, '  # '));
  }
}

/** Prints the plan and ends the process: 0 when every promise was kept. */
export function finish() {
  console.log(`1..${count}`);
  process.exit(failures === 0 ? 0 : 1);
}

/** `work`, or an error that names what was awaited once the deadline has passed. */
export async function withDeadline(work, awaited, milliseconds = DEADLINE_MS) {
  let timer;
  const expired = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${milliseconds} ms for: ${awaited}`)), milliseconds);
  });
  try {
    return await Promise.race([work, expired]);
  } finally {
    clearTimeout(timer);
  }
}

/** What happened, in order. `next` waits for the first event that fits and forgets it and all before it. */
export class Inbox {
  #waiting = [];
  #watchers = new Set();
  seen = [];

  push = (event) => {
    this.seen.push(event);
    this.#waiting.push(event);
    for (const watcher of [...this.#watchers]) watcher();
  };

  next(description, fits = () => true) {
    const taken = new Promise((resolve) => {
      const look = () => {
        const index = this.#waiting.findIndex(fits);
        if (index < 0) return;
        this.#watchers.delete(look);
        const [event] = this.#waiting.splice(0, index + 1).slice(-1);
        resolve(event);
      };
      this.#watchers.add(look);
      look();
    });
    return withDeadline(taken, `${description}; so far: ${JSON.stringify(this.seen).slice(0, 2000)}`);
  }
}

const lines = createInterface({ input: process.stdin });
lines.pause();

/** Asks whoever started this script to restart walcast, and waits until they say that it serves again. */
export async function restartServer() {
  console.log('RESTART');
  lines.resume();
  const [answer] = await withDeadline(once(lines, 'line'), 'RESTARTED on standard input', 60_000);
  lines.pause();
  if (answer.trim() !== 'RESTARTED') throw new Error(`expected RESTARTED, got ${JSON.stringify(answer)}`);
}

export function requiredEnvironment(name) {
  const value = process.env[name];
  if (!value) {
    console.log(`Bail out! ${name} is not set; see tests/clients/README.md`);
    process.exit(2);
  }
  return value;
}
