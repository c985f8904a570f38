// The result panel: what was suppressed in the image that is selected, read from that image's infotext.
const eiupPanel = (function() {
    const WORDS = {
        heading: eiup.translate("Result"),
        showWhere: eiup.translate("Show where"),
        showWhereHelp: eiup.translate("Draws over the image where the concepts were forming."),
        whichHelp: eiup.translate("The concept that is shown over the image."),
        all: eiup.translate("all suppressed"),
        compare: eiup.translate("Compare"),
        compareHelp: eiup.translate("Makes this image once more without erasure, to compare the two."),
        comparing: eiup.translate("Making the image without erasure"),
        erased: eiup.translate("erased"),
        notPresent: eiup.translate("not present"),
        suppressed: eiup.translate("suppressed"),
        untouched: eiup.translate("left as it was"),
        erasedHelp: eiup.translate("The concept was forming in this image, and was erased."),
        notPresentHelp: eiup.translate("The concept was not forming in this image, which is as it would have been without EIUP."),
        suppressedHelp: eiup.translate("This mode suppresses the concept whether it is forming or not."),
        untouchedHelp: eiup.translate("Nothing was suppressed: the strength, the weight or the window is zero."),
        weightHelp: eiup.translate("The concept's own weight, which multiplies the strength."),
        begunAnew: eiup.translate("begun anew"),
        begunAnewHelp: eiup.translate("The image was begun anew from its noise when the concept was seen in it."),
        presence: eiup.translate("Presence"),
        presenceHelp: eiup.translate("How much of the concept the prompt was about to bring in: about 0 is nothing, about 1 is the concept itself."),
        gate: eiup.translate("Gate"),
        gateHelp: eiup.translate("How far the prompt opened the gate for the concept, 0 to 1, as a mean over the steps. In the mode adaptive, what is not seen is not suppressed."),
        share: eiup.translate("Suppressed"),
        shareHelp: eiup.translate("How large what was taken away is, compared with the whole attention output, as a mean over the steps."),
        curveHelp: eiup.translate("The suppressed share at each step, from noise on the left to the finished image on the right."),
        mapHelp: eiup.translate("Where the concept was forming, compared with the rest of the image: the brighter, the more of it."),
        badMap: eiup.translate("The heat map cannot be read."),
        more: eiup.translate("Further concepts are not shown."),
        lifted: eiup.translate("Changed by this server's policy:"),
        earlier: eiup.translate("This image's infotext has no results (made by an earlier version)."),
        noResults: eiup.translate("This image's infotext has no results."),
        grid: eiup.translate("This is the grid of all images. Select one of them to see its results."),
        unreadable: eiup.translate("The results in this image's infotext cannot be read."),
        unerasedImage: eiup.translate("Without erasure"),
        erasedImage: eiup.translate("With erasure"),
        unerased: eiup.translate("This image was made without erasure, to compare."),
        sliderHelp: eiup.translate("Drag to the right to uncover the image without erasure."),
    };
    const LAST_WITHOUT_RESULTS = 3;
    const SHOWN_CONCEPTS = 64;
    const GALLERY_TABS = ["txt2img", "img2img"];
    const places = new Map();

    // ---- infotext -------------------------------------------------------------------------------------

    /** What the webui's own reader finds under a label in the line of parameters; undefined where nothing. */
    function parameter(infotext, label) {
        const line = infotext.trim().split("\n").at(-1);
        for (const [, name, text] of line.matchAll(/\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g)) {
            if (name === label) return text;
        }
        return undefined;
    }

    function unquoted(text) {
        try {
            const value = JSON.parse(text);
            return typeof value === "string" ? JSON.parse(value) : value;
        } catch (error) {
            return null;
        }
    }

    const isShare = value => Number.isFinite(value) && value >= 0;
    const areShares = values => Array.isArray(values) && values.every(isShare);

    function readConcept(named, result, points) {
        const name = typeof named === "string" ? named : named.concept;
        const weight = named.weight ?? 1;
        const steps = result.share_by_step ?? [];
        const numbers = [weight, result.presence, result.gate, result.share];
        if (typeof name !== "string" || !numbers.every(Number.isFinite) || !areShares(steps)) throw new TypeError();
        if (steps.length && steps.length !== points) throw new TypeError();
        const {presence, gate, share} = result;
        const map = typeof result.map === "string" ? eiupPictures.decodeMap(result.map) : null;
        return {name, weight, presence, gate, share, steps, map, badMap: "map" in result && !map, begunAnew: result.begun_anew === true};
    }

    /** What a policy has changed, as text: "strength: 0.5 \u2192 2"; empty where nothing. */
    function readLifted({policy}) {
        const text = value => Array.isArray(value) ? value.map(String).join(", ") || "\u2013" : String(value);
        return (policy?.lifted ?? []).map(lift => `${text(lift.field)}: ${text(lift.asked)} \u2192 ${text(lift.in_force)}`).join("; ");
    }

    /** {message}, {unerasedOf: number} for a twin, {concepts, adaptive, progress, lifted}; null where EIUP says nothing. */
    function read(infotext) {
        const twin = parameter(infotext, "EIUP compare");
        if (twin !== undefined) return {unerasedOf: parseInt(twin.replace(/^"?image /, "")), message: "unerased"};
        const text = parameter(infotext, "EIUP");
        if (text === undefined) return null;
        const value = unquoted(text);
        try {
            if (!Number.isInteger(value.v) || !Array.isArray(value.concepts)) throw new TypeError();
            if (value.result === undefined) {
                return {message: value.v <= LAST_WITHOUT_RESULTS ? "earlier" : "noResults", erased: true};
            }
            const {progress, concepts} = value.result;
            if (!areShares(progress) || concepts.length !== value.concepts.length) throw new TypeError();
            const told = value.concepts.map((named, i) => readConcept(named, concepts[i], progress.length));
            const shown = {concepts: told, progress: progress.map(at => Math.min(at, 1)), lifted: readLifted(value)};
            return {...shown, adaptive: value.mode === "adaptive", erased: true};
        } catch (error) {
            return {message: "unreadable", erased: true};
        }
    }

    /** Which image of a gallery belongs to which, erased and un-erased, by their places in it. */
    function pairs(readings, first) {
        const paired = new Map();
        let job = [], closed = false;
        readings.forEach((reading, at) => {
            if (at < first || !reading) return;
            if (reading.erased) {
                if (closed) [job, closed] = [[], false];
                job.push(at);
            } else {
                closed = true;
                const erased = job[reading.unerasedOf - 1];
                if (erased !== undefined) paired.set(erased, at).set(at, erased);
            }
        });
        return paired;
    }

    // ---- what is selected -----------------------------------------------------------------------------

    /** What a gallery shows: {infotext, reading, image, pair: [erased, un-erased] or null}; null for nothing. */
    function shownInGallery(place) {
        const gallery = gradioApp().querySelector(`#${place.key}_gallery`);
        const text = gradioApp().querySelector(`#generation_info_${place.key} textarea`)?.value;
        if (!gallery || !text) return null;
        if (text !== place.text) {
            const {infotexts, index_of_first_image: first} = unquoted(text) ?? {};
            const readings = (infotexts ?? []).map(read);
            Object.assign(place, {text, infotexts: infotexts ?? [], readings, first: first ?? 0, index: 0, comparing: false});
            place.paired = pairs(readings, place.first);
        }
        const small = Array.from(gallery.querySelectorAll(".thumbnail-item.thumbnail-small"));
        const items = small.length ? small : Array.from(gallery.querySelectorAll(".grid-container .thumbnail-item"));
        const selected = small.findIndex(item => item.classList.contains("selected"));
        if (selected >= 0) place.index = selected;
        const {index} = place;
        if (!items.length || !place.infotexts[index]) return null;
        const infotext = place.infotexts[index];
        const sourceOf = at => items[at]?.querySelector("img")?.src;
        let pair = null;
        if (place.paired.has(index)) {
            const other = place.paired.get(index);
            pair = place.readings[index].erased ? [index, other] : [other, index];
            pair = pair.map(sourceOf);
        } else if (place.made?.infotext === infotext) {
            pair = [sourceOf(index), place.made.image];
        }
        if (!pair?.every(Boolean)) pair = null;
        const reading = index < place.first && place.readings[index] ? {message: "grid"} : place.readings[index];
        return {infotext, reading, image: gallery.querySelector(".preview img[data-testid='detailed-image']"), pair};
    }

    function shownInPngInfo() {
        const infotext = gradioApp().querySelector("#pnginfo_generation_info textarea")?.value;
        if (!infotext) return null;
        return {infotext, reading: read(infotext), image: gradioApp().querySelector("#pnginfo_image img"), pair: null};
    }

    // ---- drawing --------------------------------------------------------------------------------------

    function element(name, className, text, title) {
        const made = document.createElement(name);
        if (className) made.className = className;
        if (text !== undefined) made.textContent = text;
        if (title) made.title = title;
        return made;
    }

    function bar(word, help, value, text) {
        const line = element("div", "eiup-bar", undefined, help);
        const full = Math.min(Math.max(value, 0), 1);
        const track = element("span", "eiup-track");
        track.setAttribute("role", "meter");
        for (const [name, of] of [["label", word], ["valuemin", 0], ["valuemax", 1], ["valuenow", full], ["valuetext", text]]) {
            track.setAttribute(`aria-${name}`, of);
        }
        const fill = element("span");
        fill.style.width = `${100 * full}%`;
        track.append(fill);
        line.append(element("span", "eiup-label", word), track, element("span", "eiup-number", text));
        return line;
    }

    function verdict(concept, adaptive) {
        const word = concept.share > 0 ? (adaptive ? "erased" : "suppressed") : (adaptive ? "notPresent" : "untouched");
        return element("span", `eiup-verdict eiup-${concept.share > 0 ? "on" : "off"}`, WORDS[word], WORDS[`${word}Help`]);
    }

    function conceptRow(concept, {adaptive, progress}) {
        const row = element("li", "eiup-concept");
        const picture = element("div", `eiup-picture${concept.share > 0 ? "" : " eiup-faint"}`);
        if (concept.map) picture.append(eiupPictures.thumbnail(concept.map, WORDS.mapHelp));
        if (concept.badMap) picture.append(element("span", "eiup-note", WORDS.badMap));
        const head = element("div", "eiup-head");
        head.append(element("span", "eiup-name", concept.name));
        if (concept.weight !== 1) {
            head.append(element("span", "eiup-weight", `\u00d7${Number(concept.weight.toPrecision(3))}`, WORDS.weightHelp));
        }
        head.append(verdict(concept, adaptive));
        if (concept.begunAnew) head.append(element("span", "eiup-note", WORDS.begunAnew, WORDS.begunAnewHelp));
        const bars = element("div", "eiup-bars");
        bars.append(
            bar(WORDS.presence, WORDS.presenceHelp, concept.presence, concept.presence.toFixed(2)),
            bar(WORDS.gate, WORDS.gateHelp, concept.gate, concept.gate.toFixed(2)),
            bar(WORDS.share, WORDS.shareHelp, concept.share, `${(100 * concept.share).toFixed(concept.share < 0.1 ? 1 : 0)}%`),
        );
        const body = element("div", "eiup-body");
        body.append(bars, eiupPictures.curve(progress, concept.steps, WORDS.curveHelp));
        const words = element("div", "eiup-told");
        words.append(head, body);
        row.append(picture, words);
        return row;
    }

    function whereControls(place, concepts) {
        const label = element("label", "eiup-where", undefined, WORDS.showWhereHelp);
        const box = element("input");
        [box.type, box.checked] = ["checkbox", place.showsWhere];
        label.append(box, element("span", "", WORDS.showWhere));
        const choice = element("select", "eiup-which", undefined, WORDS.whichHelp);
        choice.setAttribute("aria-label", WORDS.whichHelp);
        choice.append(new Option(WORDS.all, ""), ...concepts.map(concept => new Option(concept.name, concept.name)));
        choice.value = concepts.some(concept => concept.name === place.which) ? place.which : "";
        box.addEventListener("change", () => {
            place.showsWhere = box.checked;
            draw(place);
        });
        choice.addEventListener("change", () => {
            place.which = choice.value;
            place.showsWhere = box.checked = true;
            draw(place);
        });
        return [label, choice];
    }

    function compareButton(place) {
        const button = element("button", "eiup-compare-button", place.comparing ? WORDS.comparing : WORDS.compare, WORDS.compareHelp);
        button.type = "button";
        button.disabled = place.comparing;
        button.addEventListener("click", () => {
            place.comparing = true;
            draw(place);
            gradioApp().querySelector(`#script_${place.key}_eiup_make_unerased`).click();
        });
        return button;
    }

    function build(place, {reading, pair}) {
        const panel = element("section", "eiup-panel");
        panel.setAttribute("aria-label", `EIUP: ${WORDS.heading}`);
        const bar = element("div", "eiup-bar-of-panel");
        bar.append(element("span", "eiup-heading", WORDS.heading));
        panel.append(bar);
        if (reading.message) panel.append(element("p", "eiup-message", WORDS[reading.message]));
        if (reading.concepts) {
            const mapped = reading.concepts.filter(concept => concept.map);
            if (mapped.length) bar.append(...whereControls(place, mapped));
            const list = element("ul", "eiup-concepts");
            list.append(...reading.concepts.slice(0, SHOWN_CONCEPTS).map(concept => conceptRow(concept, reading)));
            panel.append(list);
            if (reading.lifted) panel.append(element("p", "eiup-message eiup-lifted", `${WORDS.lifted} ${reading.lifted}`));
            if (reading.concepts.length > SHOWN_CONCEPTS) panel.append(element("p", "eiup-message", WORDS.more));
        }
        if (pair) {
            const legend = element("div", "eiup-legend");
            legend.append(element("span", "", WORDS.unerasedImage), element("span", "", WORDS.erasedImage));
            const figure = element("figure", "eiup-pair");
            figure.append(eiupPictures.slider(...pair, WORDS), legend);
            panel.append(figure);
        } else if (GALLERY_TABS.includes(place.key) && reading.concepts && !eiup.find(place.key, "policy")) {
            bar.append(compareButton(place));
        }
        return panel;
    }

    function showWhere(place, shown) {
        const mapped = shown?.reading?.concepts?.filter(concept => concept.map) ?? [];
        const chosen = mapped.filter(concept => concept.name === place.which);
        const covering = chosen.length ? chosen : mapped.filter(concept => concept.share > 0);
        if (!place.showsWhere || !covering.length || !shown.image) return eiupPictures.uncover(place.key);
        const of = JSON.stringify([shown.infotext, place.which]);
        if (place.coverOf !== of) {
            place.coverOf = of;
            place.coverMap = eiupPictures.largestOf(covering.map(concept => concept.map));
        }
        eiupPictures.cover(place.key, shown.image, place.coverMap);
    }

    function draw(place) {
        const shown = place.shown();
        const state = shown?.reading ? JSON.stringify([shown.infotext, shown.reading.message, shown.pair, place.comparing]) : "";
        if (state !== place.state) {
            place.state = state;
            place.mount.querySelector(":scope > .eiup-panel")?.remove();
            if (state) place.mount.append(build(place, shown));
            place.mount.classList.toggle("eiup-filled", Boolean(state));
        }
        showWhere(place, shown);
    }

    function drawAll() {
        places.forEach(draw);
    }

    // ---- the page -------------------------------------------------------------------------------------

    function addPlace(key, mount, shown) {
        const place = {key, mount, showsWhere: false, which: ""};
        place.shown = () => shown(place);
        places.set(key, place);
    }

    function addPngInfo() {
        const column = gradioApp().querySelector("#pnginfo_generation_info")?.closest(".form, .block")?.parentElement;
        const text = gradioApp().querySelector("#pnginfo_generation_info")?.closest(".form")?.nextElementSibling;
        if (!column) return;
        const mount = element("div", "eiup-place");
        mount.id = "eiup_pnginfo_panel";
        if (text) text.after(mount);
        else column.append(mount);
        addPlace("pnginfo", mount, shownInPngInfo);
    }

    onUiLoaded(function() {
        // Selecting another image changes attributes only, which onUiUpdate does not hear of.
        const observer = new MutationObserver(drawAll);
        for (const tab of GALLERY_TABS) {
            const mount = gradioApp().querySelector(`#script_${tab}_eiup_panel`);
            const gallery = gradioApp().querySelector(`#${tab}_gallery`);
            if (!mount || !gallery) continue;
            addPlace(tab, mount, shownInGallery);
            observer.observe(gallery, {attributes: true, attributeFilter: ["class", "src"], childList: true, subtree: true});
        }
        addPngInfo();
        drawAll();
    });
    onAfterUiUpdate(drawAll);
    window.addEventListener("resize", drawAll);

    /** The arguments of the server's function behind the button Compare. */
    function startComparing(tab) {
        const element = name => gradioApp().querySelector(`#${tab}_${name}`);
        const task = randomId();
        requestProgress(task, element("gallery_container"), element("gallery"), () => {});
        return [task, places.get(tab).shown().infotext];
    }

    /** What the server's function returned: JSON of infotext and image, or nothing where it failed. */
    function endComparing(tab, made) {
        const place = places.get(tab);
        place.comparing = false;
        if (made) place.made = JSON.parse(made);
        draw(place);
    }

    return {startComparing, endComparing};
})();
