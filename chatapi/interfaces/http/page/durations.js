/** Formats durations. */

/** Seconds as 340 ms or 1.24 s, with a non-breaking space. */
export function spell(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}\u00a0ms`;
  return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)}\u00a0s`;
}

/** Seconds as m:ss. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}
