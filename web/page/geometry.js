// From the picture to the crop that the network sees, as src/pnfs/data/geometry.py has it.
// A crop is never turned, so its map is x' = scale * x + offset[0], y' = scale * y + offset[1].

/** Width and height as crops are measured: pixels, or the intervals between them. */
export function cropExtent([height, width], unbiased) {
  return unbiased ? [width - 1, height - 1] : [width, height];
}

/**
 * The map from pixels of the picture to pixels of the crop.
 *
 * @param box x, y, width and height in pixels of the picture
 * @param padding factor on the sides of the box
 * @param model what model.json says
 */
export function cropMap([x, y, boxWidth, boxHeight], padding, model) {
  const [width, height] = cropExtent(model.inputSize, model.unbiased);
  const fitted = Math.max(boxWidth * padding, (boxHeight * padding * width) / height);
  const scale = width / fitted;
  return {
    scale,
    offset: [width / 2 - scale * (x + boxWidth / 2), height / 2 - scale * (y + boxHeight / 2)],
  };
}

/** Where a point of the heatmaps lies in the picture. */
export function mapToPicture([u, v], { scale, offset }, [strideX, strideY]) {
  return [(u * strideX - offset[0]) / scale, (v * strideY - offset[1]) / scale];
}

/**
 * The crop, by bilinear interpolation; black outside of the picture.
 *
 * @param picture width, height and data (RGBA), as ImageData has them
 * @returns RGB, height * width * 3 bytes
 */
export function cutCrop(picture, { scale, offset }, [height, width]) {
  // Rounds to the nearest number, halves to even ones, as OpenCV does.
  const crop = new Uint8ClampedArray(height * width * 3);
  for (let row = 0, at = 0; row < height; row++) {
    const y = (row - offset[1]) / scale;
    const top = Math.floor(y);
    for (let column = 0; column < width; column++, at += 3) {
      const x = (column - offset[0]) / scale;
      const left = Math.floor(x);
      blend(picture, left, top, x - left, y - top, crop, at);
    }
  }
  return crop;
}

function blend({ width, height, data }, left, top, shareX, shareY, crop, at) {
  const sum = [0, 0, 0];
  for (let dy = 0; dy < 2; dy++) {
    for (let dx = 0; dx < 2; dx++) {
      const [x, y] = [left + dx, top + dy];
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      const share = (dx ? shareX : 1 - shareX) * (dy ? shareY : 1 - shareY);
      const pixel = 4 * (y * width + x);
      for (let c = 0; c < 3; c++) sum[c] += share * data[pixel + c];
    }
  }
  for (let c = 0; c < 3; c++) crop[at + c] = sum[c];
}

/** The crop with left and right exchanged. */
export function mirrored(crop, [height, width]) {
  const result = new Uint8ClampedArray(crop.length);
  for (let pixel = 0; pixel < height * width; pixel++) {
    const column = pixel % width;
    const from = 3 * (pixel - column + width - 1 - column);
    result.set(crop.subarray(from, from + 3), 3 * pixel);
  }
  return result;
}
