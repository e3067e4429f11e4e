// Runs an ONNX file in onnxruntime-web: node run.mjs MODEL.onnx CALLS.json OUTPUTS.json
//
// CALLS.json   {"calls": [{"x": {"dtype": "float32", "dims": [1, 2], "data": [0.5, -1]}, ...}, ...],
//               "state": {"h_in": "h_out", ...}}
// OUTPUTS.json [{"y": {"dtype": ...}, ...}, ...], one for each call
//
// `state`, which may be left out, names inputs that need be given once: in the next call they are
// what this one returned, or, where the output is null, what they were.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const map = (tensors, f) =>
  Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, f(x, name)]));

const read = ({ dtype, dims, data }) => new ort.Tensor(dtype, data, dims);

// JSON has no NaN, no infinity and no 64-bit integers: these are strings.
const number = (x) => (Number.isFinite(x) ? x : String(x));
const write = ({ type, dims, data }) => ({ dtype: type, dims, data: Array.from(data, number) });

const [modelFile, callsFile, outputsFile] = process.argv.slice(2);
const { calls, state = {} } = JSON.parse(readFileSync(callsFile, "utf8"));

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(modelFile));

let carried = {};
const results = [];
for (const call of calls) {
  const feeds = { ...carried, ...map(call, read) };
  const outputs = await session.run(feeds);
  carried = map(state, (output, input) => (output === null ? feeds[input] : outputs[output]));
  results.push(map(outputs, write));
}
writeFileSync(outputsFile, JSON.stringify(results));
