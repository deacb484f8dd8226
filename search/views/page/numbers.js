/* Numbers as people read them. Columns give the unit, the digits and the way that is better. */

const written = (number, column) => {
  if (number === null) return "–";
  const size = Math.abs(number);
  if (size > 0 && size < 0.5 * 10 ** -column.digits) return number.toExponential(1);
  return number.toFixed(size >= 10000 ? 0 : column.digits);
};

const named = (column) => column.label + (column.unit ? ` (${column.unit})` : "");

/** Positive when `one` is better than `other`. */
const gain = (one, other, column) => (column.goal === "max" ? one - other : other - one);

/** The least and the greatest of some numbers. */
const reach = (numbers) => numbers.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
