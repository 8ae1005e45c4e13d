/** Loudness for level meters. */

/** Root mean square on a scale from 0 (-50 dB and less) to 1 (0 dB). */
export function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  const decibels = 10 * Math.log10(sum / samples.length + 1e-10);
  return Math.min(1, Math.max(0, 1 + decibels / 50));
}
