// Pictures of EIUP's result panel: heat maps as thumbnails and over images, curves, and the slider of a pair.
const eiupPictures = (function() {
    const OPACITY = 0.75;
    const LARGEST_SIDE = 16;
    // matplotlib's inferno in equal steps; eiup/overlay.py draws with the same.
    const COLOURS = [
        [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
        [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
    ];
    const SVG = "http://www.w3.org/2000/svg";
    const covers = new Map();

    /** A map of infotext as {width, height, values in 0..1}; null where the text is no map. */
    function decodeMap(text) {
        const [, width, height, packed] = /^(\d{1,2})x(\d{1,2}):([A-Za-z0-9+/]+=*)$/.exec(text) ?? [];
        if (!(width >= 1 && height >= 1 && width <= LARGEST_SIDE && height <= LARGEST_SIDE)) return null;
        let bytes;
        try {
            bytes = atob(packed);
        } catch (error) {
            return null;
        }
        const levels = Array.from(bytes, char => char.charCodeAt(0)).flatMap(byte => [byte >> 4, byte & 15]);
        const spare = levels.length - width * height;
        if (spare !== 0 && spare !== 1) return null;
        return {width: +width, height: +height, values: levels.slice(0, width * height).map(level => level / 15)};
    }

    /** The largest value of several maps at every place; of those that are as large as the first. */
    function largestOf(maps) {
        const same = maps.filter(map => map.width === maps[0].width && map.height === maps[0].height);
        return {...maps[0], values: maps[0].values.map((_, at) => Math.max(...same.map(map => map.values[at])))};
    }

    function colourOf(value) {
        const at = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
        const below = Math.min(Math.floor(at), COLOURS.length - 2);
        return COLOURS[below].map((low, i) => low + (COLOURS[below + 1][i] - low) * (at - below));
    }

    /** Draw a map smoothly over all of a canvas; `through`: the less a value, the more shows through. */
    function paint(canvas, map, through) {
        const width = canvas.width, height = canvas.height;
        const context = canvas.getContext("2d");
        const grid = document.createElement("canvas");
        [grid.width, grid.height] = [map.width, map.height];
        // Values are interpolated, not colours: they are drawn as grey, stretched and coloured then.
        const grey = new ImageData(map.width, map.height);
        map.values.forEach((value, i) => grey.data.set([value * 255, value * 255, value * 255, 255], i * 4));
        grid.getContext("2d").putImageData(grey, 0, 0);
        context.imageSmoothingQuality = "high";
        context.drawImage(grid, 0, 0, width, height);
        const picture = context.getImageData(0, 0, width, height);
        const palette = Array.from({length: 256}, (_, level) => colourOf(level / 255));
        for (let at = 0; at < picture.data.length; at += 4) {
            const level = picture.data[at];
            picture.data.set([...palette[level], through ? level * OPACITY : 255], at);
        }
        context.putImageData(picture, 0, 0);
    }

    function thumbnail(map, label) {
        const canvas = document.createElement("canvas");
        const scale = 112 / Math.max(map.width, map.height);
        canvas.width = Math.max(1, Math.round(map.width * scale));
        canvas.height = Math.max(1, Math.round(map.height * scale));
        canvas.className = "eiup-map";
        canvas.title = label;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", label);
        paint(canvas, map, false);
        return canvas;
    }

    /** A small curve of `values` over `progress`; both lists are of one length. */
    function curve(progress, values, label) {
        const width = 100, height = 40;
        const top = Math.max(0.05, ...values);
        const points = values.map((value, i) => `${(progress[i] * width).toFixed(1)},${((1 - value / top) * height).toFixed(1)}`);
        const svg = svgElement("svg", {viewBox: `0 -2 ${width} ${height + 3}`, preserveAspectRatio: "none", class: "eiup-curve", role: "img", "aria-label": label});
        const title = svgElement("title", {});
        title.textContent = label;
        svg.append(title, svgElement("line", {x1: 0, y1: height, x2: width, y2: height, class: "eiup-axis"}));
        if (points.length > 1) {
            const [first, last] = [progress[0] * width, progress.at(-1) * width];
            svg.append(
                svgElement("polygon", {points: `${first},${height} ${points.join(" ")} ${last},${height}`}),
                svgElement("polyline", {points: points.join(" ")}),
            );
        }
        return svg;
    }

    function svgElement(name, attributes) {
        const element = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        return element;
    }

    /** Two images one over the other; the slider, which starts at the erased one, uncovers the other. */
    function slider(erased, unerased, words) {
        const box = document.createElement("div");
        box.className = "eiup-slider";
        const images = [[erased, words.erasedImage], [unerased, words.unerasedImage]].map(([source, label]) => {
            const image = document.createElement("img");
            [image.src, image.alt, image.draggable] = [source, label, false];
            return image;
        });
        images[1].className = "eiup-unerased";
        const handle = document.createElement("span");
        handle.className = "eiup-handle";
        const range = document.createElement("input");
        Object.assign(range, {type: "range", min: 0, max: 100, step: 0.5, value: 0, title: words.sliderHelp});
        range.setAttribute("aria-label", words.sliderHelp);
        range.addEventListener("input", () => box.style.setProperty("--eiup-at", `${range.value}%`));
        box.append(...images, handle, range);
        return box;
    }

    /** Where the picture is inside of its img element, relative to what the overlay is positioned by. */
    function placeOf(image) {
        const box = image.getBoundingClientRect();
        const parent = image.offsetParent?.getBoundingClientRect();
        if (!parent || !image.naturalWidth || !box.width) return null;
        const fit = getComputedStyle(image).objectFit;
        let [width, height] = [box.width, box.height];
        if (fit === "contain" || fit === "scale-down") {
            let scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
            if (fit === "scale-down") scale = Math.min(scale, 1);
            [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
        }
        return {
            left: box.left + (box.width - width) / 2 - parent.left - image.offsetParent.clientLeft + image.offsetParent.scrollLeft,
            top: box.top + (box.height - height) / 2 - parent.top - image.offsetParent.clientTop + image.offsetParent.scrollTop,
            width, height,
        };
    }

    function moveCover(cover) {
        const place = placeOf(cover.image);
        cover.canvas.style.visibility = place ? "visible" : "hidden";
        if (!place) return;
        for (const [side, pixels] of Object.entries(place)) cover.canvas.style[side] = `${pixels}px`;
    }

    /** Lay a map over an image, and let it follow; `key` names the place, which has one such map at most. */
    function cover(key, image, map) {
        const known = covers.get(key);
        if (known?.image === image && known.map === map && known.canvas.isConnected) return moveCover(known);
        uncover(key);
        const canvas = document.createElement("canvas");
        canvas.className = "eiup-overlay";
        canvas.setAttribute("aria-hidden", "true");
        const scale = 512 / Math.max(map.width, map.height);
        [canvas.width, canvas.height] = [Math.round(map.width * scale), Math.round(map.height * scale)];
        paint(canvas, map, true);
        const made = {image, map, canvas};
        made.follow = () => moveCover(made);
        made.observer = new ResizeObserver(made.follow);
        made.observer.observe(image);
        if (image.offsetParent) made.observer.observe(image.offsetParent);
        image.addEventListener("load", made.follow);
        image.after(canvas);
        covers.set(key, made);
        moveCover(made);
    }

    function uncover(key) {
        const known = covers.get(key);
        if (!known) return;
        known.observer.disconnect();
        known.image.removeEventListener("load", known.follow);
        known.canvas.remove();
        covers.delete(key);
    }

    return {decodeMap, largestOf, thumbnail, curve, slider, cover, uncover};
})();
