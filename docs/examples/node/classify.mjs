// Classifies a digit: node classify.mjs MODEL.onnx IMAGE.pgm
import { readFileSync } from 'node:fs';
import * as ort from 'onnxruntime-node';

const [model, image] = process.argv.slice(2);
const pixels = readFileSync(image).subarray(-28 * 28); // a binary PGM ends with its pixels
const values = Float32Array.from(pixels, (pixel) => pixel / 255);

const session = await ort.InferenceSession.create(model);
const { logits } = await session.run({ image: new ort.Tensor('float32', values, [1, 1, 28, 28]) });

const found = Array.from(logits.data);
console.log(JSON.stringify({ class: found.indexOf(Math.max(...found)), logits: found }));
