# Cuts from an output of `nvidia-smi -q -x` what gpuid does not read: supported clocks, which are long, and processes,
# whose names are not for logs. A name may hold anything, line breaks and tags too: where one could pass for a GPU or
# for the end of the list, nothing is cut, so that gpuid sees what it would see without this.

function trimmed(text) {
  sub(/^[ \t]+/, "", text)
  sub(/[ \t\r]+$/, "", text)
  return text
}

{
  line[NR] = $0
  text = tag[NR] = trimmed($0)
  if (attached == "" && text ~ /^<attached_gpus>[0-9]+<\/attached_gpus>$/) {
    attached = text
    gsub(/[^0-9]/, "", attached)
  }
  if (text ~ /^<gpu[ >]/)
    start[++gpus] = NR
  if (index(text, "<nvidia_smi_log") && documents++ || index(text, "</nvidia_smi_log") && ends++)
    doubt = 1
  if (index(text, "process_name>") && text !~ /^<process_name>.*<\/process_name>$/)
    doubt = 1
}

END {
  if (attached == "" || gpus > attached + 0)
    doubt = 1
  start[gpus + 1] = NR + 1
  for (gpu = 1; gpu <= gpus && !doubt; gpu++)
    cut_gpu(start[gpu], start[gpu + 1])
  for (number = 1; number <= NR; number++)
    if (doubt || !cut[number])
      print line[number]
}

# The first start tag comes before every name, and the last end tag after.
function cut_gpu(from, to,    number, clocks, clocks_end, processes, processes_end) {
  for (number = from; number < to; number++) {
    if (!processes && tag[number] == "<supported_clocks>" && !clocks)
      clocks = number
    else if (!processes && tag[number] == "</supported_clocks>" && clocks && !clocks_end)
      clocks_end = number
    else if (tag[number] ~ /^<(accounted_)?processes>$/ && !processes)
      processes = number
    else if (tag[number] ~ /^<\/(accounted_)?processes>$/)
      processes_end = number
  }
  if (processes && processes_end < processes)
    doubt = 1
  for (number = clocks; clocks_end && number <= clocks_end; number++)
    cut[number] = 1
  for (number = processes; processes && number <= processes_end; number++)
    cut[number] = 1
}
