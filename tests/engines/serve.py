"""Serve a model folder through transformers with the OpenAI chat interface, and misbehave on order.

Usage: python serve.py FOLDER [PORT]. Prints the port it listens on. ``POST /faults`` takes a list
of faults, one for each of the next questions: a status, ``"slow"``, ``"cut"``, ``"text"``,
``"packed"``, ``"nothing"``, an object that is answered as it is, or ``""`` for none.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_S = 3.0


class Served:
    """A vision-language model that answers one question at a time."""

    def __init__(self, folder):
        import torch
        from transformers import AutoModelForCausalLM, AutoProcessor

        torch.set_num_threads(1)
        trusted = {"trust_remote_code": True, "local_files_only": True}
        self.model = AutoModelForCausalLM.from_pretrained(folder, **trusted).eval()
        self.processor = AutoProcessor.from_pretrained(folder, **trusted)
        self.lock = threading.Lock()

    def answer(self, question):
        from PIL import Image

        turns = []
        for turn in question["messages"]:
            text, picture = "", None
            for part in turn["content"]:
                if part["type"] == "text":
                    text += part["text"]
                else:
                    _, _, content = part["image_url"]["url"].partition(";base64,")
                    picture = Image.open(io.BytesIO(base64.b64decode(content)))
            turns.append({"role": turn["role"], "content": "<|image_1|>\n" + text})
        tokenizer = self.processor.tokenizer
        chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(chat, picture, return_tensors="pt")
        with self.lock:
            ids = self.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=question["max_tokens"],
                eos_token_id=[1, 4],
                pad_token_id=1,
            )
        ids = ids[0, inputs["input_ids"].shape[1] :].tolist()
        reason = "stop" if ids[-1] in (1, 4) else "length"
        kept = [i for i in ids if i not in (1, 4)]
        return tokenizer.decode(kept, skip_special_tokens=True), len(kept), reason


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send(200, {"object": "list", "data": [{"id": "phantom", "object": "model"}]})

    def do_POST(self):
        server = self.server
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/faults":
            server.faults[:] = content
            server.most = 0
            return self.send(200, {})
        if self.path == "/most":
            return self.send(200, {"most": server.most})
        with server.counting:
            server.now += 1
            server.most = max(server.most, server.now)
            fault = server.faults.pop(0) if server.faults else ""
        try:
            return self.question(content, fault)
        finally:
            with server.counting:
                server.now -= 1

    def question(self, content, fault):
        if isinstance(fault, int):
            return self.send(fault, {"error": {"message": "as ordered"}})
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
            return None
        if isinstance(fault, dict):
            return self.send(200, fault)
        if fault == "packed":
            return self.send(200, {}, {"Content-Encoding": "gzip"})
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "text":
            return self.send(200, None)
        if fault == "nothing":
            return self.send(200, {"choices": []})
        if content["model"] != "phantom":
            return self.send(404, {"error": {"message": "no such model"}})
        text, count, reason = self.server.served.answer(content)
        choice = {"index": 0, "finish_reason": reason}
        choice["message"] = {"role": "assistant", "content": text}
        usage = {"completion_tokens": count}
        return self.send(200, {"object": "chat.completion", "choices": [choice], "usage": usage})

    def send(self, status, content, headers=()):
        body = b"<html>" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    server = ThreadingHTTPServer(
        ("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Handler
    )
    server.daemon_threads = True
    server.counting = threading.Lock()
    server.faults, server.now, server.most = [], 0, 0
    server.served = Served(sys.argv[1])
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
