// The picture with the box, the parts' heatmaps and the skeleton on it.

const OUTLINE = "#141414";

/**
 * Draws all of it, as large as the canvas is.
 *
 * @param canvas shows the whole picture
 * @param state bitmap, box, found (see network.js) and model
 * @param options showMaps, colourBy ("side" or "part")
 */
export function drawAll(canvas, { bitmap, box, found, model }, { showMaps, colourBy }) {
  const pen = canvas.getContext("2d");
  const zoom = canvas.width / bitmap.width;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (found && showMaps) drawMaps(pen, found, model, zoom);
  if (box) drawBox(pen, box, zoom);
  if (found) drawSkeleton(pen, found.joints, model, zoom, colourBy);
}

function drawMaps(pen, { parts, toCrop }, model, zoom) {
  const [height, width] = model.mapSize;
  const layer = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  const colours = model.parts.map(({ colour }) => channels(colour));
  // Brightest at the surest joint, however sure it is: the table has the scores.
  const top = Math.max(...parts.map((map) => map.reduce((a, b) => Math.max(a, b))), 0);
  if (!(top > 0)) return;
  for (let n = 0; n < width * height; n++) {
    // Squared, so that low scores far and wide do not veil the person.
    const strengths = parts.map((map) => Math.max(0, map[n] / top) ** 2);
    const sum = strengths.reduce((a, b) => a + b, 0) || 1;
    for (let c = 0; c < 3; c++) {
      image.data[4 * n + c] = strengths.reduce(
        (total, s, p) => total + (s / sum) * colours[p][c],
        0,
      );
    }
    image.data[4 * n + 3] = 190 * Math.max(...strengths);
  }
  layer.getContext("2d").putImageData(image, 0, 0);
  pen.save();
  // From pixels of the maps to those of the canvas; centres of pixels lie at one half.
  const [scaleX, scaleY] = model.stride.map((stride) => (zoom * stride) / toCrop.scale);
  const [left, above] = toCrop.offset.map((offset) => zoom * (0.5 - offset / toCrop.scale));
  pen.setTransform(scaleX, 0, 0, scaleY, left, above);
  pen.drawImage(layer, -0.5, -0.5);
  pen.restore();
}

function drawBox(pen, [x, y, width, height], zoom) {
  for (const [colour, line] of [
    [OUTLINE, 4],
    ["white", 2],
  ]) {
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    pen.strokeRect(x * zoom, y * zoom, width * zoom, height * zoom);
  }
}

function drawSkeleton(pen, joints, model, zoom, colourBy) {
  const size = Math.min(pen.canvas.width, pen.canvas.height);
  const line = Math.max(2, Math.round(size / 110));
  const places = joints.map(({ x, y }) => [(x + 0.5) * zoom, (y + 0.5) * zoom]);
  const certain = joints.map(({ score }) => score >= model.scoreThreshold);
  pen.lineCap = "round";
  // All outlines come first, so that none cuts through a limb.
  for (const outline of [true, false]) {
    for (const limb of model.limbs) {
      const [a, b] = limb.joints;
      const width = certain[a] && certain[b] ? line : Math.max(1, line / 2);
      pen.strokeStyle = outline ? OUTLINE : colourOf(limb, model, colourBy);
      pen.lineWidth = outline ? width + 2 : width;
      pen.beginPath();
      pen.moveTo(...places[a]);
      pen.lineTo(...places[b]);
      pen.stroke();
    }
  }
  model.joints.forEach((joint, k) => {
    const radius = 1 + line;
    disk(pen, places[k], radius + 1.5, OUTLINE);
    disk(pen, places[k], radius, colourOf(joint, model, colourBy));
    if (!certain[k]) disk(pen, places[k], 0.6 * radius, OUTLINE);
  });
}

/** Colour of a joint or limb; a limb between two parts is grey. */
export function colourOf({ side, part }, model, colourBy) {
  if (colourBy === "side") return model.sideColours[side];
  return part === null ? "#d0d0d0" : model.parts[part].colour;
}

function disk(pen, [x, y], radius, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
