# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/wan from the official code: a tiny model of random weights in the original layout, and
what the official DiT, text encoder, VAE and samplers compute with it.

    /usr/bin/python3 tests/golden/make_wan.py WAN_CHECKOUT T3_CHECKOUT [OUT]

WAN_CHECKOUT is Wan-Video/Wan2.1, T3_CHECKOUT zhangzjn/T3-Video (T3's windows and DiffSynth's scheduler). All in
f32 and by one thread."""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

import official
from official import save

DIT = dict(model_type='t2v', dim=64, ffn_dim=96, freq_dim=256, in_dim=16, out_dim=16, num_heads=2, num_layers=5,
           text_len=512, eps=1e-6)
TEXT_DIM = 32
PROMPTS = {
    'short': 'A heron lands on a frozen lake.',
    'long': 'Slow   pan over a harbour at dawn: fishing boats leave one by one,\n gulls circle above the pier, and a '
            'boy in a yellow coat waves; the &quot;Santa Maria&quot; sounds her horn twice. '
            'Zażółć gęślą jaźń, 東京 2026 ½ Ｆｕｌｌ.',
    'cut': 'The light moves from blue to gold, the water stays dark. ' * 16,
    'empty': '',
}
NEGATIVE = 'blurry, low quality, text'


def randomise(model, seed):
    """Every weight non-trivial, also those that the official initialisation leaves at 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'token_embedding' in name:
                p.copy_(normal(p))
            elif 'pos_embedding' in name or 'modulation' in name:
                p.copy_(0.4 * normal(p))
            elif 'gamma' in name or ('norm' in name and name.endswith('weight')):
                p.copy_(1 + 0.25 * normal(p))
            elif name.endswith('bias'):
                p.copy_(0.15 * normal(p))
            else:
                p.copy_(normal(p) * (p[0].numel() ** -0.5))
    return model.eval()


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- samplers -----------------------------------------------------------------------------------

def fake_velocity(x, t):
    return 0.8 * x - torch.sin(3 * x + float(t) / 200)


def unipc(o, steps, shift):
    s = o.unipc.FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    s.set_timesteps(steps, device='cpu', shift=shift)
    return s, s.timesteps, lambda v, t, x: s.step(v, t, x, return_dict=False)[0]


def dpm(o, steps, shift):
    s = o.dpm.FlowDPMSolverMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    timesteps, _ = o.dpm.retrieve_timesteps(s, device='cpu', sigmas=o.dpm.get_sampling_sigmas(steps, shift))
    return s, timesteps, lambda v, t, x: s.step(v, t, x, return_dict=False)[0]


def euler(o, steps, shift):
    s = o.euler.FlowMatchScheduler(shift=5, sigma_min=0.0, extra_one_step=True)
    s.set_timesteps(steps, denoising_strength=1.0, shift=shift)
    return s, s.timesteps, lambda v, t, x: s.step(v, t, x)


SAMPLERS = {'unipc': unipc, 'dpm++': dpm, 'euler': euler}


def make_samplers(o, out):
    tensors = {'noise': randn(1, 2, 2, 3, 5, seed=1)}
    for name, make in SAMPLERS.items():
        for steps, shift in ((1, 5.0), (2, 5.0), (3, 1.0), (6, 5.0), (20, 8.0), (50, 5.0), (40, 12.0)):
            scheduler, timesteps, step = make(o, steps, shift)
            x, path = tensors['noise'], []
            for t in timesteps:
                x = step(fake_velocity(x, t), t, x)
                path.append(x.flatten())
            key = f'{name}/{steps}/{shift:g}/'
            tensors[key + 'sigma'] = scheduler.sigmas[:steps].float()
            tensors[key + 'timestep'] = timesteps.double()
            tensors[key + 'x'] = torch.stack(path)
    save(f'{out}/samplers.safetensors', tensors, velocity='0.8 x - sin(3 x + t / 200)')


# ---- the tiny model -----------------------------------------------------------------------------

def make_tokenizer(folder):
    os.makedirs(folder, exist_ok=True)
    who = ('a heron', 'the old sailor', 'a red fox', 'one yellow boat', 'two children', 'the harbour light')
    does = ('lands on', 'walks along', 'waves at', 'leaves', 'circles above', 'waits near', 'looks into')
    what = ('the frozen lake', 'a quiet pier', 'the dark water', 'golden fields', 'an empty street', 'the blue hills')
    how = ('at dawn', 'slowly, in the rain', 'one by one', 'while the camera pans left', 'in low quality, blurry text')
    with tempfile.TemporaryDirectory() as tmp:
        with open(f'{tmp}/corpus', 'w') as f:
            for a in who:
                for b in does:
                    for c in what:
                        for d in how:
                            print(f'{a.capitalize()} {b} {c} {d}.', file=f)
        subprocess.run(['spm_train', '--input=corpus', '--model_prefix=spiece', '--vocab_size=384',
                        '--model_type=unigram', '--byte_fallback', '--pad_id=0', '--eos_id=1', '--bos_id=2',
                        '--unk_id=3', '--normalization_rule_name=nmt_nfkc', '--hard_vocab_limit=false',
                        '--num_threads=1', '--minloglevel=2'], check=True, cwd=tmp)
        with open(f'{tmp}/spiece.model', 'rb') as src, open(f'{folder}/spiece.model', 'wb') as dst:
            dst.write(src.read())


def make_dit(o, folder):
    dit = randomise(o.model.WanModel(text_dim=TEXT_DIM, **DIT), 11)
    with open(f'{folder}/config.json', 'w') as f:
        json.dump({'_class_name': 'WanModel', '_diffusers_version': '0.30.0', **DIT}, f, indent=2)
        f.write('\n')
    save(f'{folder}/diffusion_pytorch_model.safetensors', dict(dit.named_parameters()), format='pt')
    return dit


def make_text(o, folder):
    make_tokenizer(f'{folder}/google/umt5-xxl')
    text = o.t5.T5EncoderModel.__new__(o.t5.T5EncoderModel)
    text.tokenizer = o.tokenizers.HuggingfaceTokenizer(f'{folder}/google/umt5-xxl', seq_len=512, clean='whitespace')
    text.model = randomise(o.t5.T5Encoder(vocab=text.tokenizer.vocab_size, dim=TEXT_DIM, dim_attn=32, dim_ffn=48,
                                          num_heads=4, num_layers=2, num_buckets=32, shared_pos=False), 12)
    torch.save(text.model.state_dict(), f'{folder}/models_t5_umt5-xxl-enc-bf16.pth')
    return text


def make_vae(o, folder):
    vae = o.vae.WanVAE.__new__(o.vae.WanVAE)
    vae.model = randomise(o.vae.WanVAE_(dim=6, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                        temperal_downsample=[False, True, True]), 13)
    with torch.no_grad(): # keeps the video inside [-1, 1], so that clamping hides nothing
        vae.model.decoder.head[2].weight.mul_(0.2)
    torch.save(vae.model.state_dict(), f'{folder}/Wan2.1_VAE.pth')
    official_scale = o.vae.WanVAE.__init__.__code__.co_consts
    mean, std = [torch.tensor(c) for c in official_scale if isinstance(c, tuple) and len(c) == 16]
    vae.scale = [mean, 1.0 / std]
    return vae


# ---- what they compute --------------------------------------------------------------------------

def velocity(dit, latent, t, context):
    c, f, h, w = latent.shape
    return dit([latent], t=torch.stack([t]), context=[context], seq_len=f * (h // 2) * (w // 2))[0]


def make_dit_fixtures(dit, out):
    latent, context, target = randn(16, 3, 6, 10, seed=21), randn(7, TEXT_DIM, seed=22), randn(16, 3, 6, 10, seed=23)
    tensors = {'latent': latent, 'context': context, 'target': target}
    with torch.no_grad():
        tensors['velocity_t731'] = velocity(dit, latent, torch.tensor(731), context)
        tensors['velocity_t500.25'] = velocity(dit, latent, torch.tensor(500.25), context)
        tensors['latent_one'] = randn(16, 1, 2, 2, seed=24)
        tensors['velocity_one_t3'] = velocity(dit, tensors['latent_one'], torch.tensor(3), context)
        tensors['latent_odd'], tensors['context_full'] = randn(16, 2, 10, 14, seed=25), randn(512, TEXT_DIM, seed=26)
        tensors['velocity_odd_t999'] = velocity(dit, tensors['latent_odd'], torch.tensor(999), tensors['context_full'])
    save(f'{out}/dit.safetensors', tensors)

    x, c = latent.clone().requires_grad_(), context.clone().requires_grad_()
    loss = (velocity(dit, x, torch.tensor(731), c) - target).pow(2).mean()
    loss.backward()
    grads = {'loss': loss.reshape(1), 'grad_latent': x.grad, 'grad_context': c.grad}
    grads.update({f'grad.{k}': p.grad for k, p in dit.named_parameters()})
    save(f'{out}/dit_grad.safetensors', grads, timestep=731, loss='mean((velocity - target)^2), inputs of dit.safetensors')
    dit.zero_grad(set_to_none=True)


def make_t3_fixtures(o, dit, out):
    """T3's windows over a grid of 4 x 6 x 8 tokens; T3-Video's own table fits one 4K grid only."""
    counts = ((4, 1, 1), (1, 3, 4), (1, 2, 8), (2, 3, 2), (2, 2, 4))
    t3 = o.t3.WanModel(patch_size=(1, 2, 2), text_dim=TEXT_DIM, has_image_input=False,
                       **{k: DIT[k] for k in DIT if k not in ('model_type', 'text_len')})
    t3.load_state_dict(dit.state_dict())
    for block, n in zip(t3.blocks, counts):
        a = block.self_attn
        a.T, a.H, a.W = 4, 6, 8
        a.n_t, a.n_h, a.n_w = n
    latent, context = randn(16, 4, 12, 16, seed=51), randn(7, TEXT_DIM, seed=22)
    padded = torch.cat([context, torch.zeros(512 - len(context), TEXT_DIM)])
    target = randn(16, 4, 12, 16, seed=52)
    v = t3(latent[None], torch.tensor([731.0]), padded[None])[0]
    loss = (v - target).pow(2).mean()
    loss.backward()
    tensors = {'latent': latent, 'context': context, 'target': target, 'velocity': v, 'loss': loss.reshape(1)}
    for k, p in t3.named_parameters():
        tensors[f'norm.{k}'] = p.grad.double().norm().float().reshape(1)
    for i in range(5):
        for k in ('q.weight', 'norm_k.weight', 'v.bias'):
            name = f'blocks.{i}.self_attn.{k}'
            tensors[f'grad.{name}'] = t3.get_parameter(name).grad
    with torch.no_grad():
        full = velocity(dit, latent, torch.tensor(731), context)
    print('full against T3:', float((full - v).norm() / v.norm()))
    save(f'{out}/t3.safetensors', tensors, timestep=731, loss='mean((velocity - target)^2)',
         plan='t3:blocks=' + '/'.join('x'.join(map(str, n)) for n in counts))


def make_text_fixtures(text, out):
    tensors = {}
    for name, prompt in PROMPTS.items():
        ids, mask = text.tokenizer([prompt], return_mask=True, add_special_tokens=True)
        with torch.no_grad():
            tensors[f'context_{name}'] = text([prompt], 'cpu')[0]
        tensors[f'ids_{name}'] = ids[0, :int(mask.sum())].int()
        print(name, tensors[f'context_{name}'].shape)
    save(f'{out}/text.safetensors', tensors, **{f'prompt_{k}': v for k, v in PROMPTS.items()})


def clip(frames, h, w, seed):
    """Smooth moving colours with some noise, in [-1, 1]."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(h), np.arange(w), indexing='ij')
    rgb = [np.sin(0.31 * x + 0.5 * c + 0.4 * t) * np.cos(0.23 * y - 0.2 * t * c) for c in range(3)]
    return (0.8 * torch.tensor(np.stack(rgb), dtype=torch.float32) + 0.1 * randn(3, frames, h, w, seed=seed)).clamp(-1, 1)


def make_vae_fixtures(vae, out):
    with torch.no_grad():
        t = {'video': clip(9, 32, 48, 31), 'random_latent': randn(16, 2, 3, 5, seed=32)}
        encode = lambda v: vae.model.encode(v[None], vae.scale)[0]
        decode = lambda z: vae.model.decode(z[None], vae.scale)[0]
        t['latent'] = encode(t['video'])
        t['decoded'] = decode(t['latent'])
        t['random_decoded'] = decode(t['random_latent'])
        t['video_one'] = clip(1, 24, 40, 33)
        t['latent_one'] = encode(t['video_one'])
    for k in t:
        print(k, tuple(t[k].shape), float(t[k].std()), float(t[k].abs().max()))
        assert 'decoded' not in k or t[k].abs().max() < 1
    save(f'{out}/vae.safetensors', t)

    video = clip(9, 16, 24, 34)
    recon = vae.model.decode(vae.model.encode(video[None], vae.scale), vae.scale)[0]
    loss = (recon - video).pow(2).mean()
    loss.backward()
    grads = {'video': video, 'loss': loss.reshape(1)}
    whole = ('encoder.conv1.weight', 'encoder.conv1.bias', 'encoder.downsamples.2.resample.1.weight',
             'encoder.downsamples.5.time_conv.weight', 'encoder.downsamples.5.time_conv.bias',
             'encoder.middle.1.norm.gamma', 'encoder.middle.1.to_qkv.weight', 'encoder.middle.1.proj.weight',
             'encoder.head.0.gamma', 'encoder.head.2.bias', 'conv1.weight', 'conv1.bias', 'conv2.weight', 'conv2.bias',
             'decoder.middle.1.to_qkv.bias', 'decoder.middle.1.proj.weight', 'decoder.upsamples.3.time_conv.weight',
             'decoder.upsamples.3.time_conv.bias', 'decoder.upsamples.3.resample.1.bias',
             'decoder.upsamples.4.shortcut.weight', 'decoder.head.0.gamma', 'decoder.head.2.weight',
             'decoder.head.2.bias')
    named = dict(vae.model.named_parameters())
    for k in whole:
        grads[f'grad.{k}'] = named[k].grad
    for k, p in named.items():
        grads[f'norm.{k}'] = p.grad.double().norm().float().reshape(1)
    save(f'{out}/vae_grad.safetensors', grads,
         loss='mean((decode(encode(video)) - video)^2), no sampling, no clamp', norm='L2 norm of the whole gradient')
    vae.model.zero_grad(set_to_none=True)


def make_pipeline_fixture(o, dit, text, vae, out):
    noise = randn(16, 2, 4, 6, seed=41)
    with torch.no_grad():
        yes, no = text([PROMPTS['short']], 'cpu')[0], text([NEGATIVE], 'cpu')[0]
        tensors = {'noise': noise, 'context': yes, 'context_null': no}
        for name in SAMPLERS:
            _, timesteps, step = SAMPLERS[name](o, 6, 5.0)
            x = noise
            for t in timesteps:
                v = velocity(dit, x, t, no)
                v = v + 5.0 * (velocity(dit, x, t, yes) - v)
                x = step(v[None], t, x[None])[0]
            tensors[f'latent_{name}'] = x
        tensors['video_unipc'] = vae.model.decode(tensors['latent_unipc'][None], vae.scale)[0].clamp(-1, 1)
    save(f'{out}/pipeline.safetensors', tensors, prompt=PROMPTS['short'], negative=NEGATIVE, steps=6, cfg=5, shift=5)


def main():
    out = sys.argv[3] if len(sys.argv) > 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'wan')
    torch.set_num_threads(1)
    o = official.load(sys.argv[1], sys.argv[2])
    folder = f'{out}/tiny'
    os.makedirs(folder, exist_ok=True)
    make_samplers(o, out)
    dit, text, vae = make_dit(o, folder), make_text(o, folder), make_vae(o, folder)
    make_dit_fixtures(dit, out)
    make_t3_fixtures(o, dit, out)
    make_text_fixtures(text, out)
    make_vae_fixtures(vae, out)
    make_pipeline_fixture(o, dit, text, vae, out)


if __name__ == '__main__':
    main()
