// From heatmaps to joints, as src/pnfs/codec/codec.py has it.
// Maps are one Float32Array, joint after joint, each height * width scores, row after row.

import { darkStep } from "./dark.js";

/**
 * Mean of a crop's maps and those of its mirror image, mirrored back.
 *
 * @param model what model.json says; its flipShift moves the mirrored maps to the right
 */
export function averageWithFlip(maps, mirroredMaps, model) {
  const [height, width] = model.mapSize;
  const partner = model.joints.map((_, k) => k);
  for (const [a, b] of model.flipPairs) [partner[a], partner[b]] = [b, a];
  const result = new Float32Array(maps.length);
  for (let k = 0, at = 0; k < partner.length; k++) {
    for (let row = 0; row < height; row++) {
      const start = (partner[k] * height + row) * width;
      for (let column = 0; column < width; column++, at++) {
        // The first column stays where it is.
        const restored = Math.max(column - model.flipShift, 0);
        result[at] = 0.5 * (maps[at] + mirroredMaps[start + width - 1 - restored]);
      }
    }
  }
  return result;
}

/**
 * The joints: x and y in pixels of the maps, (0, 0) where no score is positive, and the highest score.
 *
 * @param model what model.json says; its decodeMethod is argmax, quarter or dark
 */
export function decode(maps, model) {
  const [height, width] = model.mapSize;
  const size = height * width;
  return model.joints.map((_, k) => {
    const map = maps.subarray(k * size, (k + 1) * size);
    let best = 0;
    for (let n = 1; n < size; n++) if (map[n] > map[best]) best = n;
    const score = map[best];
    if (!(score > 0)) return { x: 0, y: 0, score };
    const peak = [best % width, Math.floor(best / width)];
    const [dx, dy] = offsets[model.decodeMethod](map, peak, model);
    return { x: peak[0] + dx, y: peak[1] + dy, score };
  });
}

const offsets = { argmax: () => [0, 0], quarter: quarterOffset, dark: darkStep };

/** A quarter of a pixel towards the higher neighbour along each axis. */
function quarterOffset(map, [x, y], { mapSize: [height, width] }) {
  // HRNet leaves out pixel 1 although both its neighbours exist.
  if (x <= 1 || y <= 1 || x >= width - 1 || y >= height - 1) return [0, 0];
  const at = y * width + x;
  return [
    0.25 * Math.sign(map[at + 1] - map[at - 1]),
    0.25 * Math.sign(map[at + width] - map[at - width]),
  ];
}

/** Each part's map: the highest score of its joints. */
export function partMaps(maps, model) {
  const size = model.mapSize[0] * model.mapSize[1];
  return model.parts.map(({ joints }) => {
    const highest = maps.slice(joints[0] * size, (joints[0] + 1) * size);
    for (const k of joints.slice(1)) {
      for (let n = 0; n < size; n++) highest[n] = Math.max(highest[n], maps[k * size + n]);
    }
    return highest;
  });
}
