// Controls of both pages: keys of local actions, gamepads, pointer positions, the pad, buttons with films, clips, picture files.
export const $ = (id) => document.getElementById(id);
/** Buttons of a gamepad's cross, in the standard layout. */
const CROSS = { 12: "ArrowUp", 13: "ArrowDown", 14: "ArrowLeft", 15: "ArrowRight" };
const TILT = 0.5; // share of its way from which a stick counts
/** Labels of the pad's nine buttons, row by row. */
const ARROWS = "↖↑↗← →↙↓↘";

/** The local action of a digit key: key k is code k. Null for other keys. */
export const codeOf = (key) => (/^[0-9]$/.test(key) ? Number(key) : null);

/** Gamepads as keys: `down` and `up` get arrows for the left stick and the cross, and digit k for button k. */
export function onGamepad(down, up) {
  let held = new Set();
  setInterval(() => { // gamepads send no events
    const now = new Set();
    for (const pad of Array.from(navigator.getGamepads?.() ?? []).filter(Boolean)) {
      const [x, y] = pad.axes;
      for (const [key, tilt] of [["ArrowLeft", -x], ["ArrowRight", x], ["ArrowUp", -y], ["ArrowDown", y]])
        if (tilt >= TILT) now.add(key);
      pad.buttons.forEach((button, k) => { if (button.pressed && (k < 10 || CROSS[k])) now.add(CROSS[k] ?? String(k)); });
    }
    for (const key of now) if (!held.has(key)) down(key);
    for (const key of held) if (!now.has(key)) up(key);
    held = now;
  }, 16);
}

/** A pointer's position in a canvas shown with object-fit: contain, as fractions [0..1, 0..1]; null outside. */
export function positionIn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const ratio = Math.min(box.width / canvas.width, box.height / canvas.height);
  const size = [canvas.width * ratio, canvas.height * ratio];
  const x = (event.clientX - box.left - (box.width - size[0]) / 2) / size[0];
  const y = (event.clientY - box.top - (box.height - size[1]) / 2) / size[1];
  return x < 0 || x > 1 || y < 0 || y > 1 ? null : [x, y];
}

/** A button that can be held: calls `down` when it is pressed and `up` when it is released. */
function holdable(button, down, up) {
  let held = false;
  button.addEventListener("pointerdown", () => { held = true; button.classList.add("held"); down(); });
  for (const end of ["pointerup", "pointerleave", "pointercancel"])
    button.addEventListener(end, () => {
      if (!held) return;
      held = false;
      button.classList.remove("held");
      up();
    });
  return button;
}

/** The pad's nine buttons: `down` and `up` get the direction, [-1..1, -1..1]. */
export function makePad(down, up) {
  $("pad").replaceChildren(...Array.from(ARROWS, (arrow, i) => {
    const button = document.createElement("button");
    const way = [(i % 3) - 1, Math.floor(i / 3) - 1];
    button.textContent = arrow.trim();
    button.disabled = i === 4;
    return button.disabled ? button : holdable(button, () => down(way), () => up(way));
  }));
}

/** A button for each local action, with its key, its name and a canvas for its film. */
export function makeCodes(names, down, up) {
  $("codes").replaceChildren(...names.map((name, k) => {
    const button = document.createElement("button");
    button.append(document.createElement("canvas"), k < 10 ? `${k}: ${name}` : name);
    button.title = k < 10 ? `local action ${k}, ${name}: key ${k}` : `local action ${k}, ${name}`;
    return holdable(button, () => down(k, button), () => up(k, button));
  }));
}

/** The button that records the canvas and saves the clip. */
export function makeClip(canvasOf, fpsOf, nameOf) {
  let recorder = null;
  $("clip").addEventListener("click", () => {
    if (recorder) return recorder.stop();
    const parts = [];
    recorder = new MediaRecorder(canvasOf().captureStream(fpsOf()));
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      recorder = null;
      $("clip").textContent = "record a clip";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(parts, { type: "video/webm" }));
      link.download = `${nameOf()}.webm`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
    recorder.start();
    $("clip").textContent = "stop and save the clip";
    return undefined;
  });
}

/** Call `take` with each picture file that is chosen or dropped. */
export function onPicture(take) {
  $("picture").addEventListener("change", (event) => { if (event.target.files[0]) take(event.target.files[0]); });
  for (const kind of ["dragover", "dragleave", "drop"])
    addEventListener(kind, (event) => {
      event.preventDefault();
      $("stage").classList.toggle("drop", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
}
