/** Formats durations. */

import { language } from './texts.js';

/** Seconds as 340 ms or 1.24 s, with a non-breaking space. */
export function spell(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}\u00a0ms`;
  const decimals = seconds < 9.995 ? 2 : 1;
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: false };
  return `${seconds.toLocaleString(language, options)}\u00a0s`;
}

/** Seconds as m:ss, or from an hour on as h:mm:ss. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const before = hours ? `${hours}:${String(minutes).padStart(2, '0')}` : String(minutes);
  return `${before}:${String(whole % 60).padStart(2, '0')}`;
}
