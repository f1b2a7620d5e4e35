// A GPT of the library that runs in the page: no network, no graphics processor, no WebAssembly.
//
// `arbook.live.export` writes a script that calls arbookLive.add({ name, config, words, tensors, weights }): the fields
// of GPTConfig, the text of each id, names and shapes of the tensors, and their numbers in 16 bits as base64.
//
//   const model = await arbookLive.load("shakespeare");   // from model-shakespeare.js, beside this file
//   model.logits(model.encode("To be"))                   // what comes next, as the library's model says it
//
// logits(ids) remembers what it has read: a text that goes on costs one step for each new token. A text longer than the
// context is read from a multiple of half the context on, so that the answer depends on the text alone.
"use strict";

window.arbookLive = (() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const models = {}, waiting = {};

  // The number that 16 bits stand for: a sign, five bits of exponent, ten of fraction.
  const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });

  function unpack({ tensors, weights }) {
    const bytes = atob(weights), found = {};
    let at = 0;
    for (const [name, shape] of tensors) {
      const size = shape.reduce((a, b) => a * b, 1);
      found[name] = Float32Array.from({ length: size }, (_, i) => HALVES[bytes.charCodeAt(at + 2 * i) | (bytes.charCodeAt(at + 2 * i + 1) << 8)]);
      at += 2 * size;
    }
    return found;
  }

  // y = W x + b, the rows of W one after the other.
  function linear(W, x, bias) {
    const n = x.length, y = new Float32Array(W.length / n);
    for (let row = 0, at = 0; row < y.length; row += 1) {
      let sum = bias ? bias[row] : 0;
      for (let i = 0; i < n; i += 1, at += 1) sum += W[at] * x[i];
      y[row] = sum;
    }
    return y;
  }

  const ACTIVATIONS = {
    gelu: (x) => x.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))),
    relu2: (x) => x.map((v) => Math.max(v, 0) ** 2),
    swiglu: (x) => x.subarray(0, x.length / 2).map((v, i) => (v / (1 + Math.exp(-v))) * x[x.length / 2 + i]),
  };

  function norm(x, gain, bias, { eps, centred }) {
    const mean = centred ? x.reduce((a, b) => a + b, 0) / x.length : 0;
    const scale = 1 / Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length + eps);
    return x.map((v, i) => (v - mean) * scale * gain[i] + (bias ? bias[i] : 0));
  }

  // Turn the pairs (i, i + D / 2) of a head in place, each by its own angle.
  function rotate(x, position, base) {
    const half = x.length / 2;
    for (let i = 0; i < half; i += 1) {
      const angle = position * base ** (-i / half), [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      [x[i], x[i + half]] = [x[i] * cos - x[i + half] * sin, x[i] * sin + x[i + half] * cos];
    }
  }

  function softmax(scores) {
    const most = Math.max(...scores), raised = scores.map((s) => Math.exp(s - most));
    const total = raised.reduce((a, b) => a + b, 0);
    return raised.map((e) => e / total);
  }

  class GPT {
    constructor(record) {
      Object.assign(this, record.config, { words: record.words, weights: unpack(record) });
      this.weights["head.weight"] ||= this.weights["embedding.weight"];
      this.ids = new Map(this.words.map((word, id) => [word, id]));
      const size = this.context_length * this.n_kv_head * (this.n_embd / this.n_head);
      this.cache = Array.from({ length: this.n_layer }, () => ({ keys: new Float32Array(size), values: new Float32Array(size) }));
      this.read = [];
    }

    // The ids of a text; characters that the model does not know are left out.
    encode(text) { return [...text].map((sign) => this.ids.get(sign)).filter((id) => id !== undefined); }

    decode(ids) { return ids.map((id) => this.words[id]).join(""); }

    // What comes after a text. `watch`, if given, is told of each layer what happens at the last token: the attention of its
    // heads, and the stream behind it; and at first of the stream before all layers, as layer -1.
    logits(ids, watch) {
      const half = Math.floor(this.context_length / 2), over = ids.length - this.context_length;
      const text = over > 0 ? ids.slice(Math.ceil(over / half) * half) : ids;
      let same = 0;
      while (same < this.read.length && this.read[same] === text[same]) same += 1;
      this.read.length = Math.min(same, text.length - 1); // the last token is always read anew
      let x;
      for (const id of text.slice(this.read.length)) {
        x = this.step(id, this.read.length, watch && this.read.length === text.length - 1 ? watch : null);
        this.read.push(id);
      }
      return this.scores(x);
    }

    scores(x) { return linear(this.weights["head.weight"], this.norm(x, "norm")); }

    norm(x, name, head) {
      const centred = this.norm_kind === "layernorm" && !head;
      return norm(x, this.weights[`${name}.weight`], this.weights[`${name}.bias`], { eps: this.norm_eps, centred });
    }

    linear(x, name) { return linear(this.weights[`${name}.weight`], x, this.weights[`${name}.bias`]); }

    // One token at one position: the residual stream behind the last block.
    step(id, position, watch) {
      const C = this.n_embd;
      let x = this.weights["embedding.weight"].slice(id * C, (id + 1) * C);
      if (this.positions === "learned") x = x.map((v, i) => v + this.weights["position_embedding.weight"][position * C + i]);
      if (watch) watch({ layer: -1, attention: [], x });
      for (let layer = 0; layer < this.n_layer; layer += 1) {
        const block = `blocks.${layer}`, attention = [];
        const mixed = this.attend(this.norm(x, `${block}.norm_1`), layer, position, attention);
        x = x.map((v, i) => v + mixed[i]);
        const inner = ACTIVATIONS[this.activation](this.linear(this.norm(x, `${block}.norm_2`), `${block}.mlp.up`));
        const added = this.linear(inner, `${block}.mlp.down`);
        x = x.map((v, i) => v + added[i]);
        if (watch) watch({ layer, attention, x });
      }
      return x;
    }

    attend(x, layer, position, attention) {
      const D = this.n_embd / this.n_head, shared = this.n_head / this.n_kv_head, block = `blocks.${layer}.attention`;
      const { keys, values } = this.cache[layer], row = this.n_kv_head * D, at = position * row;
      const parts = this.linear(x, `${block}.qkv`), mixed = new Float32Array(this.n_embd);
      const head = (n, name) => { // the n-th piece of D numbers: queries first, then keys, then values
        const piece = parts.slice(n * D, (n + 1) * D);
        const ready = this.qk_norm && name ? this.norm(piece, `${block}.${name}`, true) : piece;
        if (name && this.positions === "rotary") rotate(ready, position, this.rotary_base);
        return ready;
      };
      for (let h = 0; h < this.n_kv_head; h += 1) {
        keys.set(head(this.n_head + h, "key_norm"), at + h * D);
        values.set(head(this.n_head + this.n_kv_head + h), at + h * D);
      }
      for (let h = 0; h < this.n_head; h += 1) {
        const query = head(h, "query_norm"), from = Math.floor(h / shared) * D, scores = new Float32Array(position + 1);
        for (let t = 0; t <= position; t += 1) {
          for (let i = 0; i < D; i += 1) scores[t] += query[i] * keys[t * row + from + i];
          scores[t] /= Math.sqrt(D);
        }
        const weights = softmax(scores);
        attention.push(weights);
        for (let t = 0; t <= position; t += 1) for (let i = 0; i < D; i += 1) mixed[h * D + i] += weights[t] * values[t * row + from + i];
      }
      return this.linear(mixed, `${block}.projection`);
    }
  }

  return {
    GPT, softmax,
    add(record) { models[record.name] = new GPT(record); },
    // A model from its script, which is fetched once.
    load(name) {
      waiting[name] ||= new Promise((done, failed) => {
        if (models[name]) return done(models[name]);
        const script = document.createElement("script");
        script.src = `${folder}model-${name}.js`;
        script.onload = () => done(models[name]);
        script.onerror = () => failed(new Error(`${script.src} could not be read`));
        document.head.append(script);
      });
      return waiting[name];
    },
    // A model from the text of such a script, for instance of a file that the reader has chosen.
    parse(text) {
      const found = /^arbookLive\.add\((\{.*\})\);\s*$/s.exec(text);
      if (!found) throw new Error("this is no file of arbook.live.export");
      return new GPT(JSON.parse(found[1]));
    },
  };
})();
