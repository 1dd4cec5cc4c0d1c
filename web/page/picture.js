// Pictures that a person chooses or drops.

const MOST_PIXELS = 100e6;

/**
 * Decodes a picture as it is to be seen: turned as its camera recorded, colours as they are stored.
 *
 * @param file what was chosen or dropped
 * @returns bitmap, to be drawn, and pixels (ImageData)
 * @throws Error in words for the person
 */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(
      `${file.name}: this is no picture that the browser can read; choose a JPEG, PNG, WebP, GIF or BMP file`,
    );
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(
      `${file.name}: ${width} x ${height} pixels are too many; choose a picture of at most 100 megapixels`,
    );
  }
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  // What is transparent becomes white, on the screen and for the network.
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  return { bitmap, pixels: pen.getImageData(0, 0, width, height) };
}

/** The first file that a drop or a choice brought; null where it brought none. */
export function firstFile(transfer) {
  return transfer?.files?.[0] ?? null;
}
