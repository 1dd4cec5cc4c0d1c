// The exported network in ONNX Runtime's WebAssembly, and what becomes of its heatmaps.

import * as ort from "./ort.js";
import { averageWithFlip, decode, partMaps } from "./decode.js";
import { cropMap, cutCrop, mapToPicture, mirrored } from "./geometry.js";

/** Loads model.json and model.onnx beside the page. */
export async function loadNetwork() {
  const answer = await fetch("model.json");
  if (!answer.ok) throw new Error(`model.json: the server answers ${answer.status}`);
  const model = await answer.json();
  // Several threads need headers that a plain static server does not send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  return { model, session };
}

/**
 * Finds one person's joints.
 *
 * @param picture width, height and data (RGBA), as ImageData has them
 * @param box x, y, width, height in pixels of the picture; null: one person fills it
 * @param flip average with the mirrored crop
 * @returns joints (x, y in pixels of the picture, 0 being the centre of the first; score), the parts'
 *   maps, the map from the picture to the crop, and the milliseconds that the network took
 */
export async function findJoints({ model, session }, picture, box, flip) {
  const place = box ?? [0, 0, picture.width, picture.height];
  const toCrop = cropMap(place, box ? model.padding : 1, model);
  const crop = cutCrop(picture, toCrop, model.inputSize);
  const crops = flip ? [crop, mirrored(crop, model.inputSize)] : [crop];
  const images = new Uint8Array(crop.length * crops.length);
  crops.forEach((each, n) => images.set(each, n * crop.length));
  const begin = performance.now();
  const outputs = await session.run({
    images: new ort.Tensor("uint8", images, [crops.length, ...model.inputSize, 3]),
  });
  const milliseconds = performance.now() - begin;
  const maps = joinedMaps(outputs.maps.data, flip, model);
  const joints = decode(maps, model).map(({ x, y, score }) => {
    const [inX, inY] = mapToPicture([x, y], toCrop, model.stride);
    return { x: inX, y: inY, score };
  });
  return { joints, parts: partMaps(maps, model), toCrop, milliseconds, crops: crops.length };
}

function joinedMaps(maps, flip, model) {
  if (!flip) return maps;
  const half = maps.length / 2;
  return averageWithFlip(maps.subarray(0, half), maps.subarray(half), model);
}
