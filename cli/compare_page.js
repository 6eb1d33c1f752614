'use strict';
// One control for the clips that are shown: the first of them leads, the others follow its time.
(() => {
    const by = name => document.getElementById(name);
    const play = by('play'), at = by('at'), speed = by('speed'), pick = by('pick');
    const groups = [...document.querySelectorAll('.clips')];
    const DRIFT = 0.08; // seconds
    let videos = [], playing = false;

    for (const video of document.querySelectorAll('video')) {
        const broken = () => video.closest('figure').classList.add('broken');
        video.removeAttribute('controls');
        video.addEventListener('error', broken);
        if (video.error) broken();
    }
    const ready = () => videos.filter(v => !v.error && v.readyState > 0);
    const seek = t => ready().forEach(v => { v.currentTime = Math.min(Math.max(t, 0), v.duration); });
    const run = on => {
        playing = on;
        play.textContent = on ? 'Pause' : 'Play';
        for (const v of videos) {
            v.playbackRate = Number(speed.value);
            if (on) v.play().catch(() => {});
            else v.pause();
        }
    };
    const show = index => {
        const on = playing;
        run(false);
        groups.forEach((g, i) => { g.hidden = i !== index; });
        videos = [...groups[index].querySelectorAll('video')];
        for (const v of videos)
            if (v.dataset.src) {
                v.src = v.dataset.src;
                delete v.dataset.src;
            }
        seek(0);
        run(on);
    };
    const step = by_frames => {
        const lead = ready()[0];
        run(false);
        if (lead) seek(lead.currentTime + by_frames * lead.duration / Number(at.dataset.frames));
    };
    const tick = () => {
        const all = ready(), lead = all[0];
        if (lead && playing && lead.ended) {
            seek(0);
            run(true);
        } else if (lead && playing) {
            for (const v of all)
                if (!v.seeking && Math.abs(v.currentTime - lead.currentTime) > DRIFT) v.currentTime = lead.currentTime;
        }
        if (lead) at.value = 1000 * lead.currentTime / lead.duration;
        requestAnimationFrame(tick);
    };

    play.addEventListener('click', () => run(!playing));
    speed.addEventListener('change', () => run(playing));
    pick.addEventListener('change', () => show(pick.selectedIndex));
    by('back').addEventListener('click', () => step(-1));
    by('next').addEventListener('click', () => step(1));
    at.addEventListener('input', () => {
        const lead = ready()[0];
        run(false);
        if (lead) seek(at.value / 1000 * lead.duration);
    });
    show(0);
    tick();
    if (!matchMedia('(prefers-reduced-motion: reduce)').matches) run(true);

    // For tests: plays every clip of the page for a moment and counts the table's cells. Resolves to
    // {clips, cells, bad: [what is wrong]}.
    const event = (target, name, ms) => new Promise((done, fail) => {
        const timer = setTimeout(() => fail(new Error(`no ${name} in ${ms} ms`)), ms);
        target.addEventListener(name, () => { clearTimeout(timer); done(); }, { once: true });
        target.addEventListener('error', () => { clearTimeout(timer); fail(new Error(target.error.message)); });
    });
    const trial = async src => {
        const v = document.createElement('video');
        v.muted = true;
        v.preload = 'auto';
        const loaded = event(v, 'loadeddata', 20000);
        v.src = src;
        await loaded;
        if (!(v.videoWidth > 0 && v.duration > 0 && v.duration < 1e6)) throw new Error('no picture or no length');
        const ended = event(v, 'ended', 20000 + 1000 * v.duration);
        await v.play();
        await ended;
        if (!(v.currentTime > 0)) throw new Error('it does not move');
    };
    window.compareCheck = async () => {
        const bad = [], cells = [...document.querySelectorAll('#table td')];
        const all = [...document.querySelectorAll('video')];
        for (const v of all)
            await trial(v.dataset.src || v.src).catch(e => bad.push(`${v.getAttribute('aria-label')}: ${e.message}`));
        // A clip that is being sought, as at the end of each round, has no picture for a moment.
        const waited = performance.now() + 20000;
        for (const v of videos) {
            while (!v.error && v.readyState < 2 && performance.now() < waited) await new Promise(r => setTimeout(r, 50));
            if (v.error || v.readyState < 2) bad.push(`${v.getAttribute('aria-label')}: not shown`);
        }
        if (cells.length === 0 || cells.some(c => !c.textContent.trim())) bad.push('an empty cell');
        return { clips: all.length, cells: cells.length, bad };
    };
})();
