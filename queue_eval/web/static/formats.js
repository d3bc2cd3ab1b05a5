/** How values are written: as `queue_eval.views.formats` writes them. */

const COUNT = new Intl.NumberFormat("en");

/** @param {number|null|undefined} value */
export function count(value) {
  return value === null || value === undefined ? "–" : COUNT.format(value);
}

/** A measured number, to `digits` significant digits. */
export function number(value, digits = 5) {
  if (typeof value !== "number") return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(digits)));
}

/** 350 ms, 12.3 s, 4 min 05 s, 2 h 30 min, 3 d 4 h. @param {number|null|undefined} seconds */
export function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole % 3600 / 60)).padStart(2, "0")} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
}

/** A duration to one unit, for a sentence. */
export function roughly(seconds) {
  if (seconds < 100) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return duration(seconds);
}

/** Local date and time. @param {number|string|null|undefined} moment Unix ms, or ISO 8601 */
export function time(moment) {
  if (moment === null || moment === undefined) return "–";
  const at = new Date(moment);
  const two = (n) => String(n).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
    `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Labels of a time axis. @param {number[]} seconds Unix @param {number} step between them, in seconds */
export function moments(seconds, step) {
  let day = "";
  return seconds.map((second) => {
    const [date, clock] = time(second * 1000).split(" ");
    const label = step >= 86400 ? date.slice(5) : step < 60 ? clock : clock.slice(0, 5);
    const isNew = date !== day && step < 86400;
    day = date;
    return isNew ? `${label}\n${date}` : label;
  });
}

export function rate(perSecond) {
  if (typeof perSecond !== "number") return "–";
  if (perSecond >= 1) return `${number(perSecond, 3)} jobs/s`;
  return perSecond >= 1 / 60 ? `${number(perSecond * 60, 3)} jobs/min` : `${number(perSecond * 3600, 3)} jobs/h`;
}

/** "1 job", "2 jobs". */
export function jobs(n) {
  return `${count(n)} job${n === 1 ? "" : "s"}`;
}

/** The name of a number in results; "" is the result itself. */
export function keyName(key) {
  return key === "" || key === null || key === undefined ? "result" : key;
}

/** A JSON value in one line. */
export function shown(value) {
  if (typeof value === "number") return number(value, 6);
  if (typeof value === "string") return value;
  return value === undefined ? "–" : JSON.stringify(value);
}
