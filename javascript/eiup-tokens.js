// Has the server count the concepts' tokens, a moment after typing has stopped.
(function() {
    const QUIET_MS = 400;
    const counted = {}, timers = {};

    eiup.keepUpToDate(function(tab) {
        const concepts = eiup.find(tab, "concepts textarea");
        if (!concepts || (counted[tab] || "") === concepts.value) return;
        counted[tab] = concepts.value;
        clearTimeout(timers[tab]);
        timers[tab] = setTimeout(() => eiup.find(tab, "count_tokens").click(), QUIET_MS);
    });
})();
