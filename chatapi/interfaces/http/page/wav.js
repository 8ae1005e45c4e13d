/** Encodes samples as a WAV file (RIFF, 16-bit PCM, mono). */

const HEADER = 44;

/** @param {import('./recorder.js').Recording} recording */
export function wav({ samples, rate }) {
  const view = new DataView(new ArrayBuffer(HEADER + 2 * samples.length));
  ascii(view, 0, 'RIFF');
  view.setUint32(4, view.byteLength - 8, true);
  ascii(view, 8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  ascii(view, 36, 'data');
  view.setUint32(40, 2 * samples.length, true);
  for (let i = 0; i < samples.length; i += 1) {
    const clipped = Math.max(-1, Math.min(1, samples[i]));
    view.setInt16(HEADER + 2 * i, Math.round(clipped * 32767), true);
  }
  return new Blob([view], { type: 'audio/wav' });
}

function ascii(view, at, text) {
  for (let i = 0; i < text.length; i += 1) view.setUint8(at + i, text.charCodeAt(i));
}
