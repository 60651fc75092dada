"use strict";
(() => {
	const $ = id => document.getElementById(id);
	const maxFile = Number(document.querySelector("main").dataset.max);

	// Text of others is never more than text. What doesn't print, or turns the direction of text around, is shown by its
	// number, and so is a pile of marks that would run into the lines above.
	const hidden = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}|\p{M}(?<=\p{M}{5})/gu;
	const shown = c => "‹U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "›";
	const clean = s => String(s).replace(hidden, shown);

	// el makes an element. Strings among its children become text.
	function el(tag, attributes, ...children) {
		const e = document.createElement(tag);
		for (const [name, value] of Object.entries(attributes ?? {})) e.setAttribute(name, value);
		e.append(...children.flat().filter(c => c !== null));
		return e;
	}

	// say makes text of others, with a direction of its own.
	const say = s => el("bdi", /^[0-9a-f+/=-]{24,}$/i.test(s) ? { class: "mono" } : null, clean(s));
	const sentence = s => s.charAt(0).toUpperCase() + s.slice(1).replace(/\.?$/, ".");
	const list = (items, ordered) => el(ordered ? "ol" : "ul", null, items.map(s => el("li", null, say(s))));

	// The check

	// The module comes in the parts below this script, which a script after each hands over: it is unpacked and compiled while
	// the rest of the page is still being read.
	const gunzip = new DecompressionStream("gzip"), parts = gunzip.writable.getWriter();
	const compiled = WebAssembly.compileStreaming(new Response(gunzip.readable, { headers: { "Content-Type": "application/wasm" } }));
	compiled.catch(() => {}); // whoever waits for it says so
	addEventListener("DOMContentLoaded", () => parts.close().catch(() => {}));
	globalThis.affidavitPart = script => {
		const e = script.previousElementSibling;
		parts.write(Uint8Array.fromBase64 ? Uint8Array.fromBase64(e.value) : Uint8Array.from(atob(e.value), c => c.charCodeAt(0))).catch(() => {});
		e.remove();
		script.remove();
	};

	let checking; // promise of the function that checks

	async function load() {
		const go = new Go();
		const instance = await WebAssembly.instantiate(await compiled, go.importObject);
		go.run(instance).then(() => { checking = undefined; }); // it ends only if it runs out of memory, say
		return globalThis.affidavitCheck;
	}

	async function check(files) {
		checking ??= load();
		const f = await checking;
		return JSON.parse(f({
			logPolicy: rules["log-policy"].text.value, appraisalPolicy: rules["appraisal-policy"].text.value, root: rules.root.text.value,
			allowQuorumNone: $("quorum-none").checked,
		}, files));
	}

	// The rules

	const rules = {};
	for (const id of ["log-policy", "appraisal-policy", "root"]) {
		const section = $(id), text = $(id + "-text");
		rules[id] = {
			section, text,
			shipped: text.defaultValue.trim() !== "",
			file: "", // name of the file that the text is from
			// "page", "file", "typed", or "" if there is none
			get from() {
				if (this.text.value.trim() === "") return "";
				if (this.file !== "") return "file";
				return this.shipped && this.text.value === this.text.defaultValue ? "page" : "typed";
			},
		};
		const rule = rules[id], reset = section.querySelector(".reset");
		text.value = text.defaultValue; // whatever the browser remembers
		reset.hidden = !rule.shipped;
		reset.addEventListener("click", () => set(id, text.defaultValue, ""));
		let timer;
		text.addEventListener("input", () => {
			rule.file = "";
			clearTimeout(timer);
			timer = setTimeout(update, 300);
		});
		$(id + "-file").addEventListener("change", e => { take(id, e.target.files[0]); e.target.value = ""; });
	}
	$("quorum-none").checked = false;
	$("quorum-none").addEventListener("change", update);

	function set(id, text, file) {
		rules[id].text.value = text;
		rules[id].file = file;
		return update();
	}

	// take makes a file the text of a rule.
	async function take(id, file) {
		if (!file) return;
		if (file.size > maxFile) return complain(`${file.name} is too large for a rule.`);
		const bytes = new Uint8Array(await file.arrayBuffer());
		let text;
		try {
			text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
		} catch {
			if (id !== "root") return complain(`${file.name} is not text.`);
		}
		// A certificate in DER, which no text field can hold.
		if (id === "root" && bytes[0] === 0x30) {
			const base64 = btoa(Array.from(bytes, b => String.fromCharCode(b)).join(""));
			text = `-----BEGIN CERTIFICATE-----\n${base64.replace(/.{64}(?=.)/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
		}
		return set(id, text ?? "?", file.name);
	}

	const names = { "log-policy": "log policy", "appraisal-policy": "appraisal policy", root: "root certificate" };

	function provenance(id) {
		const rule = rules[id];
		switch (rule.from) {
		case "page": return "Came with this page: whoever made the page chose it.";
		case "file": return `Yours, from the file ${clean(rule.file)}.`;
		case "typed": return rule.shipped ? "Yours: it was changed from what came with the page." : "Yours, as you typed or pasted it.";
		}
		return id === "root" ? "Intel’s, which is built into the check." : "There is none yet.";
	}

	function showRules(reply) {
		const p = reply.logPolicy, summaries = {
			"log-policy": p.logs.length === 0 ? [] : [
				["Log", p.logs.map(clean).join(", ")], ["Witnesses", `${p.witnesses} operators`], ["SHA-256", p.sha256]],
			"appraisal-policy": reply.appraisalPolicy.sha256 === "" ? [] : [["SHA-256", reply.appraisalPolicy.sha256]],
			root: reply.root.name === "" ? [] : [["Certificate", reply.root.name]],
		};
		for (const [id, rule] of Object.entries(rules)) {
			const problems = reply.problems.filter(x => x.about === id), notes = reply.notes.filter(x => x.about === id);
			rule.section.querySelector(".from").textContent = provenance(id);
			const box = rule.section.querySelector(".say");
			box.replaceChildren(
				facts(summaries[id]),
				...problems.map(x => el("p", { class: "alarm" }, say(x.message))),
				...notes.map(x => el("p", { class: "warning" }, say(x.message))));
			if (id === "log-policy" && p.survives.length > 0) box.append(list(p.survives));
			rule.section.classList.toggle("bad", problems.length > 0);
			if (problems.length > 0) rule.section.querySelector("details").open = true;
		}
		const shipped = shippedRules();
		$("shipped").hidden = shipped.length === 0;
		$("shipped").textContent = shipped.length === 0 ? "" : warning(shipped);
	}

	const shippedRules = () => Object.keys(rules).filter(id => rules[id].from === "page").map(id => names[id]);
	const warning = shipped => `The ${new Intl.ListFormat("en").format(shipped)} came with this page. Whoever made the page chose ${shipped.length > 1 ? "them" : "it"}; ` +
		`if that is the vendor whose record you check, the vendor judges itself.`;

	// facts makes a list of names and values.
	const facts = pairs => el("dl", { class: "facts" }, pairs.map(([name, value]) => el("div", null, el("dt", null, clean(name)), el("dd", null, typeof value === "string" ? say(value) : value))));

	// The files

	let files = []; // {name, bytes, kind}: what was given

	function complain(text) {
		$("files-say").replaceChildren(el("p", { class: "alarm" }, say(text)));
	}

	async function give(given) {
		if (given.length === 0) return;
		$("files-say").replaceChildren();
		const large = given.find(f => f.size > maxFile + 1);
		if (large) {
			files = [];
			clear();
			return complain(`${large.name} is larger than ${maxFile >> 20} MiB, which no such file is. It was not read.`);
		}
		$("live").textContent = `Checking ${given.map(f => clean(f.name)).join(", ")} …`;
		let batch;
		try {
			batch = await Promise.all(given.map(async f => ({ name: f.name, bytes: new Uint8Array(await f.arrayBuffer()) })));
		} catch (e) {
			$("live").textContent = "";
			return complain(`A file could not be read: ${e.message}`);
		}
		let reply = await attempt(batch);
		if (!reply) return;
		batch.forEach((f, i) => f.kind = reply.files[i]);
		if (many(batch)) {
			files = batch;
			return judgeAll(true);
		}
		// What comes without a record is for the one that is there.
		if (files.some(f => f.kind === "subject") && batch.every(f => f.kind === "disclosure" || f.kind === "collateral")) {
			batch = files.filter(f => !batch.some(g => g.name === f.name && g.kind === f.kind)).concat(batch);
			reply = await attempt(batch);
		}
		files = batch;
		render(reply, true);
	}

	async function attempt(files) {
		try {
			return await check(files);
		} catch (e) {
			checking = undefined;
			clear();
			complain(`This browser could not run the check: ${e.message ?? e}. Load the page again; if that doesn’t help, use a newer browser, or the command “affidavit verify”.`);
		}
	}

	// update checks again, since the rules have changed.
	async function update() {
		if (many(files)) return judgeAll(false);
		render(await attempt(files), false);
	}

	// many reports whether files are several records, each to be judged by itself; what isn't known to be one is so, too.
	const many = batch => batch.filter(f => f.kind === "subject").length > 1 && batch.every(f => f.kind === "subject" || f.kind === "unknown");

	let turn = 0; // of judging all

	async function judgeAll(focus) {
		const mine = ++turn, replies = [];
		for (const f of files) {
			$("live").textContent = `Checking ${replies.length + 1} of ${files.length} …`;
			await new Promise(done => setTimeout(done)); // the page stays alive
			const reply = await attempt([f]);
			if (!reply || mine !== turn) return; // the rules or the files are others by now
			if (reply.answer === null) return render(reply, focus);
			replies.push(reply);
		}
		showRules(replies[0]);
		showAll(replies);
		performance.mark("verdict");
		if (focus) attend("verdict");
	}

	function attend(id) {
		$(id).focus({ preventScroll: true });
		$(id).closest("section").scrollIntoView({ block: "start" });
	}

	// render shows a reply. The verdict on new files gets the focus; a later one is only said.
	function render(reply, focus) {
		if (!reply) return;
		showRules(reply);
		$("files-say").replaceChildren(...reply.problems.filter(x => x.about === "files").map(x => el("p", { class: "alarm" }, say(x.message))));
		if (reply.answer === null) {
			clear();
			const missing = reply.problems.filter(x => x.about !== "files");
			if (files.length > 0 && missing.length > 0) {
				$("files-say").append(el("p", { class: "alarm" }, "Nothing was checked, since the rules below can’t be used yet. The file is kept until they can."));
			}
			return;
		}
		show(reply);
		$("live").textContent = `${reply.words.title}: ${clean(reply.answer.file)}`;
		performance.mark("verdict");
		if (focus) attend("verdict");
	}

	function clear() {
		$("result").hidden = true;
		$("result").replaceChildren();
		$("live").textContent = "";
	}

	// The verdict

	const icons = { good: "✓", refused: "!", "not-proven": "✕" };

	function show(reply) {
		turn++; // whatever is being judged beside it is old
		$("result").replaceChildren(...verdict(reply, "verdict"));
		$("result").hidden = false;
	}

	// showAll shows the verdicts on several records, the worst first, and one of them in full if its name is pressed.
	function showAll(replies) {
		const grades = ["not-proven", "refused", "good"], of = status => replies.filter(r => r.answer.status === status);
		const words = Object.fromEntries(replies.map(r => [r.answer.status, r.words.title.toLowerCase()]));
		const worst = grades.find(status => of(status).length > 0);
		const counts = grades.filter(status => words[status]).map(status => `${of(status).length} ${words[status]}`).join(", ");
		const full = el("section", { class: "full", "aria-labelledby": "one" });
		const row = reply => {
			const button = el("button", { type: "button", class: "name" }, say(reply.answer.file));
			button.addEventListener("click", () => {
				full.replaceChildren(...verdict(reply, "one"));
				attend("one");
			});
			return el("tr", null,
				el("th", { scope: "row" }, button),
				el("td", { class: "status " + reply.answer.status }, el("span", { "aria-hidden": "true" }, icons[reply.answer.status] + " "), reply.words.title),
				el("td", null, reply.answer.status === "not-proven" ? reply.words.why : clean(reply.words.subject)),
				el("td", null, reply.answer.status === "not-proven" ? "–" : reply.words.time));
		};
		$("result").replaceChildren(
			el("div", { class: "verdict " + worst },
				el("h2", { id: "verdict", tabindex: "-1" }, el("span", { class: "icon", "aria-hidden": "true" }, icons[worst]), `${replies.length} records`),
				el("p", { class: "lead" }, `${counts[0].toUpperCase()}${counts.slice(1)}.`),
				replies[0].root.intel ? null : el("p", { class: "alarm" }, "Not under Intel’s root certificate: nothing here is evidence of Intel’s hardware."),
				shippedRules().length > 0 ? el("p", { class: "warning" }, warning(shippedRules())) : null),
			section("Verdicts", "verdicts", el("p", { class: "hint" }, "Press a name for the whole verdict, which is then below."),
				el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Verdicts" }, el("table", null,
					el("thead", null, el("tr", null, ["File", "Verdict", "What it is about", "Time"].map(s => el("th", { scope: "col" }, s)))),
					el("tbody", null, grades.flatMap(of).map(row))))),
			judged(replies[0]), full);
		$("result").hidden = false;
		$("live").textContent = `${replies.length} records: ${counts}`;
	}

	// verdict makes the parts of a verdict in full.
	function verdict(reply, id) {
		const a = reply.answer, w = reply.words;
		const shipped = shippedRules();
		const [fit, unfit] = [true, false].map(good => a.disclosures.filter(d => (d.status === "good") === good));
		const out = [el("div", { class: "verdict " + a.status },
			el("h2", { id, tabindex: "-1" }, el("span", { class: "icon", "aria-hidden": "true" }, icons[a.status]), w.title),
			el("p", { class: "lead" }, w.lead),
			a.status === "not-proven" ? el("p", null, w.why) : null,
			a.status === "not-proven" ? el("p", { class: "detail" }, "In detail (", say(a.reason), "): ", say(a.detail.replace(/\.$/, "")), ".") : null,
			el("p", { class: "file" }, "File: ", say(a.file)),
			unfit.length > 0 ? el("p", { class: "alarm" }, "What was given as an action of this record is not one, or is not proven to be: see below.") : null,
			reply.root.intel ? null : el("p", { class: "alarm" }, "Not under Intel’s root certificate: nothing here is evidence of Intel’s hardware."),
			shipped.length > 0 ? el("p", { class: "warning" }, warning(shipped)) : null)];
		if (a.refusals.length > 0) {
			out.push(section("Why it is refused", "refusals", el("ul", null, a.refusals.map(r => el("li", null,
				el("p", null, say(sentence(r.message))),
				el("p", { class: "detail" }, say(r.field), ": found ", say(r.got), ", wanted ", say(r.want)))))));
		}
		out.push(...unfit.map(d => el("section", { class: "refusals" }, el("h3", null, "Not an action of this record"), el("p", null, say(d.file), ": ", say(d.detail), "."))));
		if (a.status !== "not-proven") {
			out.push(section("What it is about", "about", facts([
				["Record", w.subject], ["Time", w.time], ["Statement", a.statement],
				["Log", `${a.log.origin}, leaf ${a.index} of a tree of ${a.log.size}`],
				["Witnesses", a.log.cosignatures.length === 0 ? "none" : el("span", null, a.log.cosignatures.flatMap((c, i) => [i ? ", " : "", say(c.witness), c.time ? ` (${moment(c.time)})` : ""]))],
			]), timeline(a, w)));
			out.push(...fit.map(d => action(d, w)));
			for (const g of w.groups) {
				const claims = a.claims.filter(c => c.source === g.source);
				if (claims.length > 0) out.push(group(g, claims, w));
			}
			out.push(section("What is in the file", "leaves", leaves(a, w)));
			out.push(section("What the verdict rests on", "", list(a.assumptions)));
			out.push(section("What no such file can prove", "", list(a.limits)));
		}
		out.push(judged(reply));
		out.push(raw(a));
		return out;
	}

	const section = (title, kind, ...children) => el("section", { class: kind }, el("h3", null, title), ...children);
	const moment = t => clean(t).replace("T", " ").replace(/(\.\d+)?Z$/, " UTC");

	// Long numbers are for comparing, and stand apart, unless something is wrong with them.
	const isNumber = c => c.status !== "failed" && /^[0-9a-f]{16,}( |$)/.test(c.value);

	function group(g, claims, w) {
		const rows = list => el("dl", null, list.map(c => claim(c, w)));
		const numbers = claims.filter(isNumber);
		return section(g.title, "claims " + g.source, el("p", { class: "hint" }, g.note), rows(claims.filter(c => !isNumber(c))),
			numbers.length > 0 ? el("details", null, el("summary", null, `Numbers to compare (${numbers.length})`), rows(numbers)) : null);
	}

	function claim(c, w) {
		return el("div", { class: c.status },
			el("dt", null, say(c.label)),
			el("dd", null, el("span", { class: "mark" }, w.marks[c.status] ?? c.status), " ", say(c.value),
				c.note ? el("p", { class: "hint" }, say(c.note)) : null));
	}

	// judged says by which rules the verdict was reached, and where they came from.
	function judged(reply) {
		const pairs = Object.keys(rules).map(id => {
			const sum = { "log-policy": reply.logPolicy.sha256, "appraisal-policy": reply.appraisalPolicy.sha256 }[id];
			return [names[id][0].toUpperCase() + names[id].slice(1), el("span", null, provenance(id), " ", sum ? el("span", { class: "sum" }, "SHA-256 ", say(sum)) : say(reply.root.name))];
		});
		return section("Judged by", "judged", facts(pairs));
	}

	// timeline draws the proven times of the records, which the table of leaves has in words.
	function timeline(a, w) {
		const spans = a.leaves.filter(l => l.interval?.notBefore && l.interval?.notAfter).map(l => ({ text: `${w.roles[l.role] ?? l.role} (${l.index})`, from: Date.parse(l.interval.notBefore), to: Date.parse(l.interval.notAfter), subject: l.index === a.index }));
		if (spans.length === 0) return null;
		const first = Math.min(...spans.map(s => s.from)), whole = Math.max(...spans.map(s => s.to)) - first || 1;
		return el("div", { class: "timeline", "aria-hidden": "true" }, spans.map(s => {
			const bar = el("div", { class: s.subject ? "bar subject" : "bar" });
			bar.style.marginInlineStart = `${(s.from - first) / whole * 100}%`;
			bar.style.inlineSize = `${Math.max((s.to - s.from) / whole * 100, 0.5)}%`;
			return el("div", { class: "span" }, el("span", null, s.text), el("div", { class: "track" }, bar));
		}), el("div", { class: "span ends" }, el("span", null, "proven time, UTC"), el("div", { class: "axis" }, el("span", null, new Date(first).toISOString().slice(11, 19)), el("span", null, new Date(first + whole).toISOString().slice(11, 19)))));
	}

	function leaves(a, w) {
		const time = i => i === null ? "–" : (i.notBefore ? `after ${moment(i.notBefore)}` : "") + (i.notBefore && i.notAfter ? ", " : "") + (i.notAfter ? `before ${moment(i.notAfter)}` : "");
		return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What is in the file" }, el("table", null,
			el("thead", null, el("tr", null, ["Leaf", "What it is", "Proven time", "Statement, leaf hash"].map(s => el("th", { scope: "col" }, s)))),
			el("tbody", null, a.leaves.map(l => el("tr", l.index === a.index ? { class: "subject" } : null,
				el("th", { scope: "row" }, String(l.index)),
				el("td", null, (w.roles[l.role] ?? l.role) + (l.index === a.index ? " (this record)" : "")),
				el("td", null, time(l.interval)),
				el("td", { class: "mono" }, l.statement ? [clean(l.statement), el("br")] : "", el("span", { class: "faint" }, clean(l.leafHash))))))));
	}

	// action shows a disclosed action of the record.
	function action(d, w) {
		const pairs = [];
		const walk = (name, v) => {
			if (Array.isArray(v)) pairs.push([name, v.join(", ")]);
			else if (v !== null && typeof v === "object") Object.entries(v).forEach(([k, x]) => walk(name === "attributes" || name === "" ? k : `${name}.${k}`, x));
			else pairs.push([name, String(v)]);
		};
		walk("", d.action);
		const by = w.groups.find(g => g.source === d.source);
		return section(`Action ${d.action.index}, disclosed`, "action",
			el("p", null, "The record’s list has exactly this action, from ", say(d.file), ": that was checked. What the action says is: ", el("strong", null, (by?.title ?? d.source).toLowerCase()), "."),
			facts(pairs));
	}

	// raw shows the answer as the command prints it.
	function raw(a) {
		const text = JSON.stringify(a, null, 2).replace(/[^\P{C}\n]|[\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, c => Array.from({ length: c.length }, (_, i) => "\\u" + c.charCodeAt(i).toString(16).padStart(4, "0")).join(""));
		const button = el("button", { type: "button" }, "Save as a file");
		button.addEventListener("click", () => {
			const link = el("a", { download: "verdict.json", href: URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" })) });
			link.click();
			setTimeout(() => URL.revokeObjectURL(link.href), 1000);
		});
		return el("details", { class: "raw" }, el("summary", null, "The whole answer, in JSON, as “affidavit verify --json” prints it"), el("div", { class: "row" }, button), el("pre", { tabindex: "0", translate: "no" }, text));
	}

	// Whatever is dropped on a rule replaces it; whatever is dropped elsewhere is to be judged.

	for (const type of ["dragenter", "dragover"]) addEventListener(type, e => {
		e.preventDefault();
		document.body.classList.add("dragging");
	});
	addEventListener("dragleave", e => { if (e.relatedTarget === null) document.body.classList.remove("dragging"); });
	addEventListener("drop", e => {
		e.preventDefault();
		document.body.classList.remove("dragging");
		const rule = e.target.closest?.(".rule");
		if (rule) take(rule.id, e.dataTransfer.files[0]);
		else give(Array.from(e.dataTransfer.files));
	});
	$("files").addEventListener("change", e => {
		const given = Array.from(e.target.files);
		e.target.value = ""; // so that the same file can be chosen again
		give(given);
	});

	// On paper, everything is open.
	let closed = [];
	addEventListener("beforeprint", () => {
		closed = Array.from(document.querySelectorAll("details:not([open]):not(.raw)"));
		closed.forEach(d => d.open = true);
	});
	addEventListener("afterprint", () => closed.forEach(d => d.open = false));

	update();
})();
