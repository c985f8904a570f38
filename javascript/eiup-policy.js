// Under a policy, the accordion offers what the policy allows. The server sees to it, whatever the page sends.
(function() {
    const LOCKED = eiup.translate("This server's policy does not let erasing be switched off.");
    const FORBIDDEN = eiup.translate("This server's policy does not allow it.");

    function keepTicked(tab) {
        const box = eiup.find(tab, "enabled-visible-checkbox");
        const hidden = eiup.find(tab, "enabled-checkbox input");
        if (!box) return;
        box.disabled = true;
        box.title = LOCKED;
        if (box.checked && hidden.checked) return;
        box.checked = hidden.checked = true;
        updateInput(hidden);
    }

    function allow(input, allowed) {
        input.disabled = !allowed;
        input.closest("label").title = allowed ? "" : FORBIDDEN;
    }

    function allowModes(tab, modes) {
        const inputs = Array.from(gradioApp().querySelectorAll(`#script_${tab}_eiup_mode input[type=radio]`));
        inputs.forEach(input => allow(input, modes.includes(input.value)));
        if (inputs.some(input => input.checked && input.disabled)) inputs.find(input => input.value === modes[0]).click();
    }

    function keepUnticked(box) {
        if (!box) return;
        if (box.checked) {
            allow(box, true);
            box.click();
        }
        allow(box, false);
    }

    function allowAdding(tab, adding) {
        for (const name of ["preset_row", "presets_panel"]) {
            const part = eiup.find(tab, name);
            if (part) part.style.display = adding ? "" : "none";
        }
        const concepts = eiup.find(tab, "concepts textarea");
        if (!concepts) return;
        concepts.dataset.examples ??= concepts.placeholder;
        concepts.placeholder = adding ? concepts.dataset.examples : "";
    }

    function keepWithin(tab, name, {least = -Infinity, most = Infinity}) {
        for (const input of gradioApp().querySelectorAll(`#script_${tab}_eiup_${name} input`)) {
            const value = Math.min(Math.max(input.value, least), most);
            if (Number.isFinite(least)) input.min = least;
            if (Number.isFinite(most)) input.max = most;
            const isTyped = input === document.activeElement;
            if (isTyped || value === Number(input.value)) continue;
            input.value = value;
            updateInput(input);
        }
    }

    eiup.keepUpToDate(function(tab) {
        if (!eiup.find(tab, "policy")) return;
        keepTicked(tab);
        const policy = eiup.find(tab, "policy [data-modes]");
        if (!policy) return;
        allowModes(tab, policy.dataset.modes.split(" "));
        ["preserve", "compare"].forEach(name => keepUnticked(eiup.find(tab, `${name} input`)));
        allowAdding(tab, policy.dataset.adding === "true");
        keepWithin(tab, "strength", {least: Number(policy.dataset.strength)});
        keepWithin(tab, "start", {most: Number(policy.dataset.start)});
        keepWithin(tab, "end", {least: Number(policy.dataset.end)});
    });
})();
