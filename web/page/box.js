// The person's box: drawn with the pointer on the picture, or typed.

const SHORTEST = 4; // pixels of the screen; anything shorter is a click

/**
 * Lets a person draw a box.
 *
 * @param canvas shows the whole picture
 * @param size () => [width, height] of the picture, or null where there is none
 * @param before () => the box that there is, or null
 * @param onBox told of the box while it is drawn and, with done = true, at the end; a drag that is taken back ends
 *   with the box before
 */
export function listenForBox(canvas, size, before, onBox) {
  let start = null;
  let told = false;
  const place = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const [pictureWidth, pictureHeight] = size();
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return [
      within(((event.clientX - left) / width) * pictureWidth, pictureWidth),
      within(((event.clientY - top) / height) * pictureHeight, pictureHeight),
    ];
  };
  const boxTo = ([x, y]) =>
    wholePixels(
      [
        Math.min(x, start.at[0]),
        Math.min(y, start.at[1]),
        Math.abs(x - start.at[0]),
        Math.abs(y - start.at[1]),
      ],
      size(),
    );
  const far = (event) =>
    Math.min(Math.abs(event.clientX - start.x), Math.abs(event.clientY - start.y)) >= SHORTEST;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !size()) return;
    canvas.setPointerCapture(event.pointerId);
    start = { at: place(event), x: event.clientX, y: event.clientY, box: before() };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start || !far(event)) return;
    told = true;
    onBox(boxTo(place(event)), false);
  });
  const end = (box) => {
    if (box) onBox(box, true);
    else if (told) onBox(start.box, true);
    start = null;
    told = false;
  };
  canvas.addEventListener("pointerup", (event) =>
    end(start && far(event) ? boxTo(place(event)) : null),
  );
  canvas.addEventListener("pointercancel", () => end(null));
}

/** A box of whole pixels inside the picture, one pixel wide and high at least. */
export function wholePixels([x, y, width, height], [pictureWidth, pictureHeight]) {
  const left = Math.min(Math.max(Math.round(x), 0), pictureWidth - 1);
  const top = Math.min(Math.max(Math.round(y), 0), pictureHeight - 1);
  return [
    left,
    top,
    Math.min(Math.max(Math.round(width), 1), pictureWidth - left),
    Math.min(Math.max(Math.round(height), 1), pictureHeight - top),
  ];
}
