# SPDX-License-Identifier: Apache-2.0
# One model in every layout: what is generated is the same, bit for bit; what is missing or mixed up is named.
set -euo pipefail
t3v=$1
tools=${T3V_BUILD:?}/tests
tiny=tests/golden/wan/tiny
families=tests/golden/families
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
spiece=$tiny/google/umt5-xxl/spiece.model
text=$tiny/models_t5_umt5-xxl-enc-bf16.pth
vae=$tiny/Wan2.1_VAE.pth
dit=$tiny/diffusion_pytorch_model.safetensors

generate() { # name, options: $dir/NAME.y4m and its latent
    local name=$1
    shift
    "$t3v" generate --quiet --threads 1 --precision f32 --prompt "A heron lands." --negative blurry --size 32x32 --frames 5 --steps 2 \
        --cfg 5 --shift 5 --seed 7 --save-latent "$dir/$name.safetensors" -o "$dir/$name.y4m" "$@" > /dev/null
}
same() { # name, options
    generate "$@"
    "$tools/compare_tensors" "$dir/$1.safetensors" latent "$dir/original.safetensors" latent 0
    cmp "$dir/$1.y4m" "$dir/original.y4m"
}
fails() { # status, words, arguments
    local want=$1 words=$2 rc=0
    shift 2
    "$t3v" "$@" > /dev/null 2> "$dir/err" || rc=$?
    if [ $rc != "$want" ] || ! grep -q -- "$words" "$dir/err"; then
        echo "t3v $*: exit $rc (wanted $want), said: $(cat "$dir/err")" >&2
        exit 1
    fi
}

echo "# original"
generate original --model $tiny

echo "# Diffusers: names, config, tokenizer.json"
d=$dir/diffusers
mkdir -p "$d"/{transformer,vae,text_encoder,tokenizer,scheduler}
"$tools/relayout" dit diffusers $dit "$d/transformer/diffusion_pytorch_model.safetensors"
"$tools/relayout" vae diffusers $vae "$d/vae/diffusion_pytorch_model.safetensors"
"$tools/relayout" text transformers $text "$d/text_encoder/model.safetensors"
"$tools/tokenizer_form" json $spiece "$d/tokenizer/tokenizer.json"
echo '{"_class_name": "WanPipeline", "boundary_ratio": null}' > "$d/model_index.json"
echo '{"_class_name": "UniPCMultistepScheduler", "flow_shift": 5.0}' > "$d/scheduler/scheduler_config.json"
cat > "$d/transformer/config.json" << 'END'
{"_class_name": "WanTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 5,
 "ffn_dim": 96, "freq_dim": 256, "in_channels": 16, "out_channels": 16, "text_dim": 32, "patch_size": [1, 2, 2],
 "qk_norm": "rms_norm_across_heads", "cross_attn_norm": true, "eps": 1e-6, "image_dim": null}
END
same from_diffusers --model "$d"

echo "# a directory as ComfyUI has it: prefixes, the tokenizer inside the text encoder"
c=$dir/comfy
mkdir -p "$c"/{diffusion_models,vae,text_encoders}
"$tools/relayout" dit original $dit "$c/diffusion_models/wan.safetensors" model.diffusion_model.
cp $tiny/config.json "$c/diffusion_models"
"$tools/relayout" vae original $vae "$c/vae/wan_2.1_vae.safetensors"
"$tools/relayout" text transformers $text "$c/text_encoders/umt5_xxl.safetensors" "" $spiece
same from_comfy --model "$c/diffusion_models/wan.safetensors"
same from_comfy_directory --model "$c"

echo "# single files, named one by one; the names of another layout in each"
same from_files --model "$d/transformer/diffusion_pytorch_model.safetensors" --vae "$c/vae/wan_2.1_vae.safetensors" \
    --text-encoder $text --tokenizer "$d/tokenizer"
same from_mixture --model $tiny --vae "$d/vae" --text-encoder "$d/text_encoder" --tokenizer "$c/text_encoders/umt5_xxl.safetensors"

echo "# GGUF: the same numbers"
mkdir "$dir/gguf"
"$t3v" convert --quiet --threads 1 $dit --dtype f32 -o "$dir/gguf/wan.gguf" > /dev/null
cp $tiny/config.json "$dir/gguf"
"$tools/relayout" text gguf $text "$dir/gguf/umt5.gguf"
same from_gguf --model "$dir/gguf/wan.gguf" --vae $vae --text-encoder $text --tokenizer $spiece
same from_ggufs --model "$dir/gguf" --vae $vae --tokenizer $spiece

"$tools/relayout" vae original $vae "$dir/vae.gguf" # as stable-diffusion.cpp's converter keeps them
same from_gguf_vae --model $tiny --vae "$dir/vae.gguf"

echo "# GGUF in several files: any of them, or the directory, stands for all; one that is missing is named"
s=$dir/shards
mkdir "$s"
"$tools/relayout" dit original $dit "$s/wan-00001-of-00003.gguf"
cp $tiny/config.json "$s"
same from_shards --model "$s/wan-00002-of-00003.gguf" --vae $vae --text-encoder $text --tokenizer $spiece
same from_directory_of_shards --model "$s" --vae $vae --text-encoder $text --tokenizer $spiece
"$tools/relayout" text gguf $text "$s/umt5-00001-of-00002.gguf"
cp $vae "$s/vae.pth"
same from_two_sets_of_shards --model "$s" --tokenizer $spiece
cp "$s/wan-00001-of-00003.gguf" "$dir/alone.gguf"
rm "$s/wan-00003-of-00003.gguf"
for model in "$s" "$s/wan-00001-of-00003.gguf"; do
    fails 1 "wan-00003-of-00003.gguf is missing: file 3 of the 3" generate --quiet --prompt x -o "$dir/bad.mp4" --model "$model"
done
fails 1 "of the [0-9]* tensors of a model in 3 files.*NAME-00001-of-00003.gguf" inspect "$dir/alone.gguf"

echo "# a directory with GGUF files and a VAE alone, the tokenizer inside; from there to the other layouts"
g=$dir/only
mkdir "$g"
cp "$dir/gguf/wan.gguf" $tiny/config.json "$g"
cp $vae "$g"
"$t3v" convert --quiet --threads 1 $text --tokenizer $spiece -o "$g/umt5.gguf" > /dev/null
same from_only --model "$g"
for layout in original diffusers comfyui; do
    "$t3v" convert --quiet --threads 1 "$g" --format $layout -o "$dir/to-$layout" > /dev/null
    [ $layout = original ] || cp $tiny/config.json "$dir/to-$layout/$([ $layout = comfyui ] && echo diffusion_models || echo transformer)/"
    same from_$layout --model "$dir/to-$layout"
done
cmp "$dir/to-original/google/umt5-xxl/spiece.model" "$dir/to-diffusers/tokenizer/spiece.model"
use=(--model $tiny --text-encoder)
"$t3v" convert --quiet --threads 1 "$g/umt5.gguf" -o "$dir/inside.safetensors" > /dev/null
same from_text_inside "${use[@]}" "$dir/inside.safetensors" --tokenizer "$dir/inside.safetensors"
"$t3v" convert --quiet --threads 1 "$g/umt5.gguf" --dtype f16 -o "$dir/inside.gguf" > /dev/null
"$t3v" inspect "$dir/inside.gguf" | grep -q "tokenizer.ggml.tokens"
"$t3v" convert "$g/umt5.gguf" -o "$dir/without.pth" 2>&1 > /dev/null | grep -q "gets no tokenizer inside.*--tokenizer"
same from_text_without "${use[@]}" "$dir/without.pth" --tokenizer "$g/umt5.gguf"
"$t3v" convert $text -o "$dir/none.gguf" --tokenizer "$d/tokenizer/tokenizer.json" > /dev/null 2>&1
same from_text_json "${use[@]}" "$dir/none.gguf" --tokenizer "$dir/none.gguf"
cp $text "$dir/bare.pth"
"$t3v" convert "$dir/bare.pth" -o "$dir/bare.gguf" 2>&1 > /dev/null | grep -q "no tokenizer.*name one with --tokenizer"

echo "# other families: the velocity"
for family in i2v ti2v; do
    mkdir "$dir/$family"
    "$tools/relayout" dit diffusers $families/$family "$dir/$family/diffusion_pytorch_model.safetensors"
    cp $families/$family/config.json "$dir/$family"
    input=(--latent $families/$family.safetensors --context $families/$family.safetensors --timestep 731)
    [ $family = i2v ] && input+=(--image-latent $families/i2v.safetensors --clip $families/i2v.safetensors)
    "$t3v" dit --quiet --threads 1 --precision f32 --model $families/$family "${input[@]}" -o "$dir/a.safetensors" > /dev/null
    "$t3v" dit --quiet --threads 1 --precision f32 --model "$dir/$family" "${input[@]}" -o "$dir/b.safetensors" > /dev/null
    "$tools/compare_tensors" "$dir/a.safetensors" velocity "$dir/b.safetensors" velocity 0
done

echo "# what is missing, ambiguous or mixed is named"
ask=(generate --quiet --prompt x -o "$dir/bad.mp4" --model)
rm "$d/vae/diffusion_pytorch_model.safetensors"
fails 1 "$d/vae" "${ask[@]}" "$d"
rm -r "$d/vae"
fails 1 "the VAE is missing; looked for Wan2.1_VAE.pth.*--vae" "${ask[@]}" "$d"
cp "$c/vae/wan_2.1_vae.safetensors" "$c/vae/second.safetensors"
fails 1 "more than one file could be the VAE (vae/second.safetensors, vae/wan_2.1_vae.safetensors).*--vae" \
    "${ask[@]}" "$c/diffusion_models/wan.safetensors"
fails 1 "no tokenizer inside" "${ask[@]}" $tiny --tokenizer $text
fails 1 "not the weights of a Wan transformer\|is missing" "${ask[@]}" "$d/text_encoder/model.safetensors"
mkdir "$dir/empty"
fails 1 "the transformer is missing" "${ask[@]}" "$dir/empty"
cp $tiny/config.json "$d"
fails 1 "two layouts" "${ask[@]}" "$d"
echo "layouts: ok"
