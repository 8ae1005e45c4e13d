// Command recognition with a client that is made from the .proto at run time: node commands.mjs PROTO ADDRESS < clip.wav
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [, , proto, address] = process.argv;
const definition = loader.loadSync(proto, { keepCase: true, defaults: true, longs: Number });
const { Commands } = grpc.loadPackageDefinition(definition).chatapi.commands.v1;
const client = new Commands(address, grpc.credentials.createInsecure());
const audio = readFileSync(0);

const call = (name, request) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + 20_000;
    client[name](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });

const classified = await call("Classify", { audio });
const submitted = await call("SubmitSample", { audio, label: "beep" });
const again = await call("SubmitSample", { audio, label: "beep" });
const samples = await call("ListSamples", {});
const parts = [];
for await (const part of client.ExportSamples({})) parts.push(part.data);
const failed = await call("RollBack", {}).catch((error) => [error.code, error.metadata.get("chatapi-code")[0]]);
const stream = client.ClassifyStream();
const detections = [];
const ended = new Promise((resolve, reject) => {
  stream.on("data", (each) => detections.push(each.label));
  stream.on("end", resolve);
  stream.on("error", reject);
});
for (const pcm of [audio.subarray(44), Buffer.alloc(32_000)]) stream.write({ pcm });
stream.end();
await ended;
console.log(
  JSON.stringify({
    label: classified.label,
    probabilities: classified.probabilities.length,
    state: submitted.sample.state,
    duplicate: [submitted.duplicate, again.duplicate],
    samples: samples.samples.length,
    exported: Buffer.concat(parts).length,
    failed,
    detections,
    methods: Object.keys(Commands.service).sort(),
  }),
);
client.close();
