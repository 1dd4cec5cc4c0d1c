// Uses the page as a person would, in headless Chromium: a question in JSON in, what was seen as JSON out.
//
// {address, chromium, widths, pictures: [{file, boxes: [[x, y, width, height] or null]}],
//  noPicture: file}; the first of the widths is the window's at the start.

import { readFileSync } from "node:fs";
import { chromium } from "../../web/node_modules/playwright-core/index.mjs";

const question = JSON.parse(readFileSync(0, "utf8"));
const browser = await chromium.launch({
  executablePath: question.chromium,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const seen = { requests: [], troubles: [], pictures: [] };
try {
  const page = await browser.newPage({ viewport: { width: question.widths[0], height: 950 } });
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("console", (message) => message.type() === "error" && seen.troubles.push(message.text()));
  page.on("pageerror", (error) => seen.troubles.push(error.message));
  await page.goto(question.address);
  await page.getByText("Ready.").waitFor({ timeout: 20000 });
  for (const { file, boxes } of question.pictures) {
    await forget(page);
    await page.locator("#file").setInputFiles(file);
    const found = [];
    for (const box of boxes) found.push(await findIn(page, box));
    seen.pictures.push(found);
  }
  await tryTheRest(page);
} catch (error) {
  throw new Error(`${error.message}\nThe page's troubles: ${seen.troubles.join("; ") || "none"}`);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(seen));

/** Types a box, or takes the whole picture, and reads the table. */
async function findIn(page, box) {
  if (box) {
    for (const [n, name] of ["x", "y", "width", "height"].entries()) {
      const field = page.locator(`#box-${name}`);
      await field.fill(String(box[n]));
      await field.blur();
    }
  } else if (await page.locator("#whole").isEnabled()) {
    await forget(page);
    await page.locator("#whole").click();
  }
  return answer(page);
}

/** Takes the last answer away, so that the next one is not mistaken for it: what is done may take effect later. */
function forget(page) {
  return page.locator("#status").evaluate((status) => (status.textContent = ""));
}

/** The joints that the page lists once the network has run. */
async function answer(page) {
  await page.getByText("The network took").waitFor({ timeout: 30000 });
  const rows = await page
    .locator("#joints tr")
    .evaluateAll((elements) =>
      elements.map((row) => [...row.cells].map((cell) => cell.textContent)),
    );
  const box = await page
    .locator("#box-fields input")
    .evaluateAll((all) => all.map((f) => +f.value));
  return { rows, box, status: await page.locator("#status").textContent() };
}

async function tryTheRest(page) {
  seen.dragged = await drag(page, 3 / 4);
  // Begun and taken back: the box stays.
  seen.takenBack = await drag(page, 1 / 4);
  const shown = () => page.locator("#picture").evaluate((canvas) => canvas.toDataURL());
  const before = await shown();
  await page.locator("#maps").focus();
  await page.keyboard.press("Space");
  const withoutMaps = await shown();
  await page.locator("#colours").selectOption("part");
  seen.pictureChanges = [before !== withoutMaps, withoutMaps !== (await shown())];
  seen.tabStops = await tabStops(page);
  await page.locator("#file").setInputFiles(question.noPicture);
  await page.locator("#error").waitFor();
  seen.refusal = await page.locator("#error").textContent();
  const bytes = readFileSync(question.pictures[0].file).toString("base64");
  await forget(page);
  await page.evaluate(drop, bytes);
  await page.getByText("dropped.png").waitFor();
  seen.dropped = await answer(page);
  seen.refusalGone = await page.locator("#error").isHidden();
  seen.layouts = [];
  for (const width of question.widths) {
    await page.setViewportSize({ width, height: 950 });
    seen.layouts.push(await page.evaluate(layout));
  }
  seen.withoutModel = await withoutModel(await browser.newPage());
}

/** What the page says where the server has no model. */
async function withoutModel(page) {
  await page.route("**/model.onnx", (route) => route.fulfill({ status: 404 }));
  await page.goto(question.address);
  await page.locator("#error").waitFor();
  return page.locator("#error").textContent();
}

/** Runs in the page: whether it is wider than the window, and the width of the picture. */
function layout() {
  const { scrollWidth, clientWidth } = document.documentElement;
  const { width } = document.getElementById("picture").getBoundingClientRect();
  return { overflows: scrollWidth > clientWidth, width };
}

/** Draws a box with the mouse, from a quarter of the picture over its middle to another share of it. */
async function drag(page, end) {
  const { x, y, width, height } = await page.locator("#picture").boundingBox();
  await page.mouse.move(x + width / 4, y + height / 4);
  await page.mouse.down();
  await page.mouse.move(x + width / 2, y + height / 2);
  await page.mouse.move(x + end * width, y + end * height);
  await forget(page);
  await page.mouse.up();
  return answer(page);
}

/** What Tab reaches, from the choice of a file on. */
async function tabStops(page) {
  await page.locator("#file").focus();
  const stops = ["file"];
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press("Tab");
    const id = await page.evaluate(() => document.activeElement.id);
    if (!id || stops.includes(id)) break;
    stops.push(id);
  }
  return stops;
}

/** Runs in the page: drops a file on it. */
function drop(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  document.body.dispatchEvent(
    new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }),
  );
}
