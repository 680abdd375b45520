// Affine maps as arrays of 12 numbers: three rows of four. The fourth row, 0 0 0 1, is left out.

export function identity() {
  return [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0];
}

/* Axes scaled and moved: index · factor + offset, for each axis. */
export function scaling(factors, offsets = [0, 0, 0]) {
  return [factors[0], 0, 0, offsets[0], 0, factors[1], 0, offsets[1], 0, 0, factors[2], offsets[2]];
}

/* The map that does `second`, then `first`. */
export function multiply(first, second) {
  const product = [];
  for (let row = 0; row < 3; row++) {
    for (let column = 0; column < 4; column++) {
      let sum = column === 3 ? first[4 * row + 3] : 0;
      for (let k = 0; k < 3; k++) sum += first[4 * row + k] * second[4 * k + column];
      product.push(sum);
    }
  }
  return product;
}

export function apply(matrix, point) {
  return [0, 4, 8].map(
    (row) => matrix[row] * point[0] + matrix[row + 1] * point[1] + matrix[row + 2] * point[2] + matrix[row + 3],
  );
}

/* A step, without the offset. */
export function turn(matrix, step) {
  return [0, 4, 8].map((row) => matrix[row] * step[0] + matrix[row + 1] * step[1] + matrix[row + 2] * step[2]);
}

export function determinant(m) {
  return (
    m[0] * (m[5] * m[10] - m[6] * m[9]) - m[1] * (m[4] * m[10] - m[6] * m[8]) + m[2] * (m[4] * m[9] - m[5] * m[8])
  );
}

export function invert(m) {
  const d = determinant(m);
  const inverse = [
    (m[5] * m[10] - m[6] * m[9]) / d,
    (m[2] * m[9] - m[1] * m[10]) / d,
    (m[1] * m[6] - m[2] * m[5]) / d,
    0,
    (m[6] * m[8] - m[4] * m[10]) / d,
    (m[0] * m[10] - m[2] * m[8]) / d,
    (m[2] * m[4] - m[0] * m[6]) / d,
    0,
    (m[4] * m[9] - m[5] * m[8]) / d,
    (m[1] * m[8] - m[0] * m[9]) / d,
    (m[0] * m[5] - m[1] * m[4]) / d,
    0,
  ];
  const offset = turn(inverse, [m[3], m[7], m[11]]);
  [inverse[3], inverse[7], inverse[11]] = offset.map((value) => -value);
  return inverse;
}

/* Lengths of the columns: edges of a voxel in mm. */
export function columnLengths(m) {
  return [0, 1, 2].map((column) => Math.hypot(m[column], m[column + 4], m[column + 8]));
}
