// DARK (F. Zhang et al., CVPR 2020): one Newton step on the logarithm of the blurred map, as
// src/pnfs/codec/decode.py has it, with what a Gaussian loses over the border given back.

const REACH = 2; // pixels from the peak that the second differences touch
const BORDER_ROUNDS = 3;

/** From the highest pixel of a map to the top of the Gaussian around it, in pixels of the map. */
export function darkStep(map, [peakX, peakY], { mapSize: [height, width], sigma }) {
  const radius = Math.max(1, roundHalfToEven((sigma - 0.8) / 0.3 + 1));
  const near = range(-radius - REACH, radius + REACH);
  const kernel = range(-radius, radius).map((d) => gaussian(d, sigma));
  const insideX = near.map((d) => peakX + d >= 0 && peakX + d < width);
  const insideY = near.map((d) => peakY + d >= 0 && peakY + d < height);
  const rows = near.map((dy, i) =>
    convolve(
      near.map((dx, j) => (insideX[j] && insideY[i] ? map[(peakY + dy) * width + peakX + dx] : 0)),
      kernel,
    ),
  );
  const columns = rows[0].map((_, j) =>
    convolve(
      rows.map((row) => row[j]),
      kernel,
    ),
  );
  // Scores of a scalar heatmap may be negative.
  const logarithm = columns[0].map((_, i) =>
    columns.map((column) => Math.log(Math.max(column[i], 1e-10))),
  );
  let step = [0, 0];
  for (let round = 0; round < BORDER_ROUNDS; round++) {
    const shareX = logShare(near, insideX, step[0], sigma, kernel);
    const shareY = logShare(near, insideY, step[1], sigma, kernel);
    step = newtonStep(logarithm.map((row, i) => row.map((v, j) => v - shareX[j] - shareY[i])));
  }
  return step;
}

/** Logarithm of the share that a blurred Gaussian around `top` keeps inside the map. */
function logShare(near, inside, top, sigma, kernel) {
  const whole = near.map((d) => gaussian(d - top, sigma));
  const kept = convolve(
    whole.map((v, n) => (inside[n] ? v : 0)),
    kernel,
  );
  return convolve(whole, kernel).map((v, n) => Math.log(kept[n] / v));
}

/** -H^-1 D of the middle of 5 x 5 values; none where the curvature is no maximum's or the top lies outside. */
function newtonStep(values) {
  const at = (dy, dx) => values[REACH + dy][REACH + dx];
  const slopeX = (at(0, 1) - at(0, -1)) / 2;
  const slopeY = (at(1, 0) - at(-1, 0)) / 2;
  const curveXX = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4;
  const curveYY = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4;
  const curveXY = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4;
  const determinant = curveXX * curveYY - curveXY ** 2;
  const x = (curveXY * slopeY - curveYY * slopeX) / determinant;
  const y = (curveXY * slopeX - curveXX * slopeY) / determinant;
  const sound = determinant > 0 && curveXX < 0 && Math.abs(x) <= REACH && Math.abs(y) <= REACH;
  return sound ? [x, y] : [0, 0];
}

function convolve(values, kernel) {
  return range(0, values.length - kernel.length).map((start) =>
    kernel.reduce((sum, weight, n) => sum + weight * values[start + n], 0),
  );
}

function gaussian(distance, sigma) {
  return Math.exp(-(distance ** 2) / (2 * sigma ** 2));
}

function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, n) => first + n);
}
