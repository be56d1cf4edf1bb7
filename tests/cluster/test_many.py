# SPDX-License-Identifier: Apache-2.0
"""A thousand clients at once, each with a stream of its own."""
import asyncio
import json
import os
import signal


async def stream(port, body):
    data = json.dumps(body).encode()
    r, w = await asyncio.open_connection("127.0.0.1", port)
    w.write(b"POST /v1/completions HTTP/1.1\r\nHost: quire\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    answer = await asyncio.wait_for(r.read(), 120)
    w.close()
    return answer


def test_a_thousand_streams_at_once(cluster):
    cluster.start_all()
    cluster.launch(model_name="story")
    cluster.complete("story")  # the connection to the shard stands
    (shard,) = cluster.shards()
    body = dict(model="story", prompt="Once upon a time", max_tokens=4, temperature=0,
                ignore_eos=True, stream=True)

    async def crowd():
        # The shard stands still meanwhile, so that all of them arrive there in one burst.
        os.kill(shard, signal.SIGSTOP)
        try:
            waiting = [asyncio.create_task(stream(cluster.port, body)) for _ in range(1000)]
            await asyncio.sleep(1)
        finally:
            os.kill(shard, signal.SIGCONT)
        return await asyncio.gather(*waiting)
    answers = asyncio.run(crowd())
    refused = [a for a in answers if not a.startswith(b"HTTP/1.1 200")]
    assert not refused, (len(refused), refused[0][-200:])
    assert all(b"data: [DONE]" in a and b'"error"' not in a for a in answers)
