// Generate, Interrupt and Skip; and the progress of a generation.

function randomId() {
    return `task(${Math.random().toString(36).slice(2)}${Math.random().toString(36).slice(2)})`;
}

function setSubmitButtons(tab, visible) {
    for (const name of ["interrupt", "skip", "interrupting"]) {
        gradioApp().getElementById(`${tab}_${name}`).style.display = visible.includes(name) ? "block" : "none";
    }
}

function showSubmitButtons(tab, show) {
    setSubmitButtons(tab, show ? [] : ["interrupt", "skip"]);
}

function showSubmitInterruptingPlaceholder(tab) {
    setSubmitButtons(tab, ["skip", "interrupting"]);
}

async function askForProgress(task, preview) {
    const response = await fetch("./internal/progress", {
        method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify({id_task: task, id_live_preview: preview, live_preview: true}),
    });
    if (!response.ok) throw new Error(`progress: HTTP ${response.status}`);
    return response.json();
}

function formatTime(seconds) {
    const padded = (count) => String(Math.floor(count)).padStart(2, "0");
    if (seconds <= 60) return `${Math.floor(seconds)}s`;
    const minutes = `${padded((seconds / 60) % 60)}:${padded(seconds % 60)}`;
    return seconds > 3600 ? `${padded(seconds / 3600)}:${minutes}` : minutes;
}

/** What the bar says: the server's text, unless it has several lines, how much is done, and the time left. */
function progressText(answer, percent) {
    let text = percent ? `${percent.toFixed(0)}%` : "";
    if (answer.eta) text += ` ETA: ${formatTime(answer.eta)}`;
    return answer.textinfo && !answer.textinfo.includes("\n") ? `${answer.textinfo} ${text}` : text;
}

/** Show a bar and previews until the task is over, then call `atEnd`. */
async function requestProgress(task, container, gallery, atEnd) {
    const startWithin = 20000;
    const started = Date.now();
    const bar = document.createElement("div");
    bar.className = "progressDiv";
    bar.innerHTML = '<div class="progress"></div>';
    container.parentNode.insertBefore(bar, container);
    const preview = document.createElement("img");
    preview.className = "livePreview";
    let known = 0;
    let wasActive = false;
    try {
        for (;;) {
            const answer = await askForProgress(task, known);
            wasActive ||= answer.active || answer.queued;
            if (answer.completed || (!answer.active && !answer.queued && (wasActive || Date.now() - started > startWithin))) break;
            const percent = 100 * (answer.progress || 0);
            bar.firstChild.style.width = `${percent}%`;
            bar.firstChild.style.background = percent ? "" : "transparent";
            bar.firstChild.textContent = progressText(answer, percent);
            if (answer.live_preview) {
                preview.src = answer.live_preview;
                known = answer.id_live_preview;
                if (!preview.parentNode) gallery.prepend(preview);
            }
            await new Promise((resolve) => setTimeout(resolve, Math.min(opts.live_preview_refresh_period || 500, 500)));
        }
    } catch (error) {
        console.error(error);
    }
    bar.remove();
    preview.remove();
    atEnd();
}

function startTask(tab, args) {
    const task = randomId();
    const element = (name) => gradioApp().getElementById(`${tab}_${name}`);
    showSubmitButtons(tab, false);
    requestProgress(task, element("gallery_container"), element("gallery"), () => showSubmitButtons(tab, true));
    args[0] = task;
    return args;
}

function submit() {
    return startTask("txt2img", Array.from(arguments));
}

function submit_img2img() {
    const args = startTask("img2img", Array.from(arguments));
    const tabs = gradioApp().querySelectorAll("#mode_img2img > .tab-nav > button");
    args[1] = Array.from(tabs).findIndex((button) => button.classList.contains("selected"));
    return args;
}
