// Runs the page's own modules on what the test hands over, outside of a browser: JSON in, JSON out.

import { readFileSync } from "node:fs";
import { averageWithFlip, decode, partMaps } from "../../web/page/decode.js";
import { cropMap, cutCrop, mapToPicture, mirrored } from "../../web/page/geometry.js";
import { wholePixels } from "../../web/page/box.js";

const { model, maps, mirroredMaps, picture, box, padding } = JSON.parse(readFileSync(0, "utf8"));
const averaged = averageWithFlip(Float32Array.from(maps), Float32Array.from(mirroredMaps), model);
const toCrop = cropMap(box, padding, model);
const crop = cutCrop(picture, toCrop, model.inputSize);
const joints = decode(averaged, model);
const answer = {
  joints,
  places: joints.map(({ x, y }) => mapToPicture([x, y], toCrop, model.stride)),
  parts: partMaps(averaged, model).map((map) => [...map]),
  crop: [...crop],
  mirrored: [...mirrored(crop, model.inputSize)],
  box: wholePixels(box, [picture.width, picture.height]),
};
process.stdout.write(JSON.stringify(answer));
