// Plays gestures on the viewer's page, after its own script, and leaves the camera after each of them in #scene.
"use strict";

canvas.setPointerCapture = () => {};  // there is no pointer of hardware
const states = {};
const state = name => { const { eye, ...axes } = look(); states[name] = { ...camera, ...axes, eye }; };
const pointer = (type, pointerId, clientX, clientY, more) =>
  canvas.dispatchEvent(new PointerEvent("pointer" + type, { pointerId, clientX, clientY, buttons: 1, ...more }));
function drag(name, x, y, more) {
  pointer("down", 1, 100, 100, more);
  pointer("move", 1, 110, 100, more);
  pointer("move", 1, 100 + x, 100 + y, more);
  pointer("up", 1, 100 + x, 100 + y, more);
  pointer("move", 1, 300, 300, more);
  state(name);
  canvas.dispatchEvent(new MouseEvent("dblclick"));
}
async function play() {
  const original = gl.drawArraysInstanced.bind(gl);
  const frames = [];
  window.requestAnimationFrame = callback => frames.push(callback);
  cancelAnimationFrame(waiting);
  waiting = null;
  states.draws = 0;
  gl.drawArraysInstanced = (...all) => { states.draws++; original(...all); };
  for (let i = 0; i < 5; i++) drag("turned", 50, 25);
  while (frames.length && states.draws < 9) frames.shift()();
  gl.drawArraysInstanced = original;
  drag("over the top", 0, 900);
  drag("below", 0, -900);
  drag("moved by shift", 40, -30, { shiftKey: true });
  drag("moved by right", 40, -30, { buttons: 2 });
  state("reset");
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 100 }));
  state("wheel");
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -1e6 }));
  state("nearest");
  reset();
  pointer("down", 1, 100, 100);
  pointer("down", 2, 140, 100);
  pointer("move", 1, 90, 100);
  pointer("move", 2, 170, 100);
  state("pinched");
  pointer("move", 2, 90, 100);
  pointer("move", 2, 90, 100);
  pointer("move", 2, 170, 100);
  state("met");
  pointer("cancel", 2, 170, 100);
  pointer("move", 1, 90, 110);
  state("one finger again");
  for (const hash of HASHES) {
    location.hash = hash;
    await new Promise(done => addEventListener("hashchange", done, { once: true }));
    state(hash);
  }
  draw();
  const before = canvas.toDataURL(), loss = new Event("webglcontextlost", { cancelable: true });
  states.waits = !canvas.dispatchEvent(loss);
  gl.bindTexture(gl.TEXTURE_2D, null);
  frames.length = 0;
  waiting = null;
  canvas.dispatchEvent(new Event("webglcontextrestored"));
  frames.shift()();
  states.restored = canvas.toDataURL() === before && gl.getError() === 0;
}
play().catch(error => { states.error = String(error); })
  .finally(() => { document.getElementById("scene").textContent = JSON.stringify(states); });
