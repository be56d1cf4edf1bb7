// SPDX-License-Identifier: Apache-2.0
// Streams one chat through the openai Node package; prints a JSON summary.
import { createRequire } from 'node:module';
const require = createRequire(process.env.NODE_MODULES + '/');
const OpenAI = require('openai').default ?? require('openai');

const client = new OpenAI({ baseURL: process.env.ENDPOINT + '/v1', apiKey: 'unused', maxRetries: 0 });
const stream = await client.chat.completions.create({
  model: 'smollm2',
  messages: [
    { role: 'user', content: 'My name is Ada.' },
    { role: 'assistant', content: 'Nice to meet you, Ada!' },
    { role: 'user', content: 'What is my name?' },
  ],
  temperature: 0,
  max_tokens: 40,
  stream: true,
});
let text = '', chunks = 0, reason = null;
for await (const chunk of stream) {
  chunks++;
  text += chunk.choices[0]?.delta?.content ?? '';
  reason = chunk.choices[0]?.finish_reason ?? reason;
}
let missing = null;
try {
  await client.chat.completions.create({ model: 'nobody', messages: [{ role: 'user', content: 'x' }] });
} catch (e) {
  missing = e.status;
}
console.log(JSON.stringify({ text, chunks, reason, missing }));
