// What the scripts for Node share, as features.py is for those in Python.
import { readFileSync } from 'node:fs';

export const FAKE = process.env.CLIENTS_FAKE_URL;
export const REAL = process.env.CLIENTS_REAL_URL;
export const TLS = process.env.CLIENTS_TLS_URL;
export const CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>';
export const FOX = `${process.env.CLIENTS_WORK}/fox.wav`;
export const QUESTION = `${process.env.CLIENTS_WORK}/question.wav`;
const MILLISECONDS = 90_000;
const features = [];

export function feature(name, run) {
  features.push([name, run]);
}

// Fails, and shows what was found, unless the condition holds.
export function expect(condition, found) {
  if (!condition) throw new Error(`got ${JSON.stringify(found)}`.slice(0, 300));
}

export function expectFox(text) {
  const words = new Set(text.toLowerCase().match(/\w+/g));
  expect(['quick', 'brown', 'fox', 'jumps', 'over', 'lazy', 'dog'].filter((word) => words.has(word)).length >= 5, text);
}

// 16-bit mono speech, not silence, of a duration in seconds.
export function expectSpeech(pcm, rate, least, most) {
  const seconds = pcm.length / 2 / rate;
  let loudest = 0;
  for (let at = 0; at + 1 < pcm.length; at += 14) loudest = Math.max(loudest, Math.abs(pcm.readInt16LE(at)));
  expect(seconds >= least && seconds <= most && loudest > 1000, { seconds, loudest });
}

// The samples of a recording of 16 kHz as 24 kHz, interpolated.
export function pcm24k(path) {
  const file = readFileSync(path).subarray(44);
  const out = Buffer.alloc((Math.floor(file.length / 2 * 1.5) - 3) * 2);
  for (let number = 0; number < out.length / 2; number++) {
    const at = Math.floor((number * 2) / 3);
    const [first, second] = [file.readInt16LE(at * 2), file.readInt16LE(at * 2 + 2)];
    out.writeInt16LE(Math.round(first + ((second - first) * ((number * 2) % 3)) / 3), number * 2);
  }
  return out;
}

export async function main() {
  // An error in an event handler must not end the script.
  process.on('uncaughtException', (error) => console.error(error));
  process.on('unhandledRejection', (error) => console.error(error));
  const wanted = process.argv.slice(2);
  for (const [name, run] of features) {
    if (wanted.length && !wanted.some((part) => name.includes(part))) continue;
    let reason = '';
    let timer;
    const expired = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${MILLISECONDS / 1000} seconds`)), MILLISECONDS);
    });
    try {
      await Promise.race([run(), expired]);
    } catch (error) {
      console.error(error);
      reason = `${error?.name ?? 'Error'}: ${error?.message ?? JSON.stringify(error)}`.replace(/\s+/g, ' ').slice(0, 400);
    }
    clearTimeout(timer);
    console.log(JSON.stringify({ feature: name, works: !reason, reason }));
  }
  process.exit(0);
}
